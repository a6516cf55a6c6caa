"""Reads several slots at once over the streaming replication protocol while psql runs scenario.sql, and writes what each
received: `<major version>-<name>.txt`, a line of hex for the content of each CopyData frame. Called by capture.sh."""

import os
import socket
import struct
import subprocess
import sys
import threading

# Name, whether the slot decodes two-phase commit, and pgoutput's options.
OLD = [
    ("v1", False, "proto_version '1'"),
    ("v2-binary", False, "proto_version '2', streaming 'on', binary 'true', messages 'true'"),
    ("v3-two-phase", True, "proto_version '3', streaming 'on', two_phase 'true', messages 'true'"),
]
PARALLEL = [
    ("v4", True, "proto_version '4', streaming 'parallel', two_phase 'true', messages 'true', origin 'any'"),
    ("v4-binary", False, "proto_version '4', streaming 'parallel', binary 'true', origin 'none'"),
]

directory, out = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
connection = f"host={directory} user=postgres dbname=postgres"


def psql(*arguments):
    command = ["psql", "-X", "-q", "-At", "-d", connection, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Stream(threading.Thread):
    """One connection that replicates one slot; frames collect until the server has read its log up to `end`."""

    def __init__(self, slot, options):
        super().__init__(daemon=True)
        self.frames, self.keepalive, self.end = [], None, None
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{directory}/.s.PGSQL.5432")
        self.input = self.socket.makefile("rb")
        startup = {"user": "postgres", "database": "postgres", "replication": "database", "client_encoding": "UTF8"}
        body = struct.pack("!I", 3 << 16) + b"".join(f"{k}\0{v}\0".encode() for k, v in startup.items()) + b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.until(b"Z")
        query = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options}, publication_names 'p')".encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(query) + 4) + query)
        self.until(b"W")

    def message(self):
        kind, length = struct.unpack("!cI", self.input.read(5))
        return kind, self.input.read(length - 4)

    def until(self, awaited):
        kind = None
        while kind != awaited:
            kind, body = self.message()
            if kind == b"E":
                sys.exit(body.replace(b"\0", b" ").decode())

    def run(self):
        """Ends at a keepalive that answers for the whole log: the server sends one when it is asked to."""
        while True:
            kind, frame = self.message()
            if kind != b"d":
                sys.exit(f"unexpected message {kind}")
            if frame[:1] == b"w":
                self.frames.append(frame)
            elif self.end is not None and struct.unpack("!Q", frame[1:9])[0] >= self.end:
                self.frames.append(frame)
                return

    def finish(self, end):
        self.end = end
        while self.is_alive():
            update = struct.pack("!cQQQQB", b"r", 0, 0, 0, 0, 1)
            self.socket.sendall(b"d" + struct.pack("!I", len(update) + 4) + update)
            self.join(0.1)
        self.socket.close()


version = psql("-c", "show server_version")
major = int(psql("-c", "show server_version_num")) // 10000
psql("-f", f"{here}/tables.sql")
streams = []
for name, two_phase, options in OLD if major < 16 else PARALLEL:
    slot = name.replace("-", "_")
    psql("-c", f"select pg_create_logical_replication_slot('{slot}', 'pgoutput', false, {two_phase})")
    streams.append((name, options, Stream(slot, options)))
for _, _, stream in streams:
    stream.start()
psql("-v", f"connection={connection}", "-f", f"{here}/scenario.sql")
end = int(psql("-c", "select pg_current_wal_flush_lsn() - '0/0'"))
for name, options, stream in streams:
    stream.finish(end)
    with open(f"{out}/{major}-{name}.txt", "w") as file:
        file.write(f"# PostgreSQL {version}; {options}\n# tables.sql, scenario.sql; a CopyData frame's content a line\n")
        file.writelines(frame.hex() + "\n" for frame in stream.frames)
