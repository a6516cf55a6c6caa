#!/bin/sh
# Makes the captures of one PostgreSQL version: `capture.sh <directory of initdb, pg_ctl and postgres>`, as any user but
# root, with psql and python3 on the path. It starts a cluster of its own in a temporary directory and removes it.
set -eu
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
data=$(mktemp -d)
trap '"$bin/pg_ctl" -D "$data/cluster" -m immediate -w stop > /dev/null 2>&1 || true; rm -rf "$data"' EXIT
trap 'exit 1' INT TERM

"$bin/initdb" -D "$data/cluster" -U postgres -A trust -E UTF8 --no-locale > "$data/initdb.log"
cat >> "$data/cluster/postgresql.conf" <<settings
listen_addresses = ''
unix_socket_directories = '$data'
fsync = off
timezone = 'UTC'
wal_level = logical
max_wal_senders = 10
max_replication_slots = 10
max_prepared_transactions = 10
logical_decoding_work_mem = '64kB'
wal_sender_timeout = 0
settings
"$bin/pg_ctl" -D "$data/cluster" -l "$data/server.log" -w start > /dev/null || { cat "$data/server.log" >&2; exit 1; }
python3 "$here/capture.py" "$data" "${2:-$here}"
