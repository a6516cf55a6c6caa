"""Of scripts/bench-redis: fills Redis with chat sessions, and carries them into PostgreSQL one by one, as programs do.

    fill PORT SESSIONS
    loop PORT URI SESSIONS PASSWORD_FILE     prints sessions a second
    write PORT KEYS SECONDS RATE             SETs of 1 KB, so many a second or, with 0, as many as go; prints how many
    probe PORT COUNT                         a key with the time every 20 ms
"""

import itertools
import json
import random
import socket
import sys
import time
from datetime import datetime, timezone

MESSAGES = 7
# Commands that are sent before their answers are read.
PIPELINED = 200


class Redis:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.answers = self.socket.makefile("rb")

    def send(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))

    def read(self):
        line = self.answers.readline()
        if line[:1] != b"$":
            return line
        length = int(line[1:])
        return None if length < 0 else self.answers.read(length + 2)[:-2]


def session(number):
    chance = random.Random(number)
    return {
        "session_id": str(number),
        "user_id": f"user {number % 500}",
        "group_id": f"group {number % 50}",
        "title": f"session {number}",
        "created_at": 1760000000 + number,
        "messages": [
            {
                "sender_id": f"user {chance.randrange(500)}",
                "sender_name": "somebody",
                "content": f"{place} " + "x" * chance.randrange(30, 70),
                "timestamp": 1760000000 + number + place,
            }
            for place in range(MESSAGES)
        ],
    }


def fill(port, sessions):
    redis = Redis(port)
    for first in range(0, sessions, 500):
        numbers = range(first, min(first + 500, sessions))
        for number in numbers:
            redis.send("SET", f"session:{number}", json.dumps(session(number)), "EX", "86400")
        for _ in numbers:
            redis.read()


TABLES = """
create table if not exists users (id bigserial primary key, external_id text unique, name text);
create table if not exists groups (id bigserial primary key, external_id text unique, name text);
create table if not exists sessions (id bigserial primary key, session_key text unique, user_id bigint, group_id bigint,
    title text, created_at timestamptz);
create table if not exists messages (id bigserial primary key, session_id bigint references sessions, sender_id bigint,
    content text, sent_at timestamptz, unique (session_id, sender_id, content, sent_at));
"""


def get_or_create(cursor, table, external_id):
    cursor.execute(f"select id from {table} where external_id = %s", (external_id,))
    row = cursor.fetchone()
    if row is None:
        cursor.execute(f"insert into {table} (external_id) values (%s) returning id", (external_id,))
        row = cursor.fetchone()
    return row[0]


def carry(cursor, value):
    group = get_or_create(cursor, "groups", value["group_id"])
    user = get_or_create(cursor, "users", value["user_id"])
    cursor.execute("select id from sessions where session_key = %s", (value["session_id"],))
    row = cursor.fetchone()
    if row is None:
        cursor.execute(
            "insert into sessions (session_key, user_id, group_id, title, created_at) values (%s, %s, %s, %s, to_timestamp(%s)) returning id",
            (value["session_id"], user, group, value["title"], value["created_at"]),
        )
        row = cursor.fetchone()
    else:
        cursor.execute("update sessions set title = %s where id = %s", (value["title"], row[0]))
    for message in value["messages"]:
        sender = get_or_create(cursor, "users", message["sender_id"])
        said = (row[0], sender, message["content"], message["timestamp"])
        cursor.execute(
            "select id from messages where session_id = %s and sender_id = %s and content = %s and sent_at = to_timestamp(%s)", said
        )
        if cursor.fetchone() is None:
            cursor.execute("insert into messages (session_id, sender_id, content, sent_at) values (%s, %s, %s, to_timestamp(%s))", said)


def loop(port, uri, sessions, password_file):
    import psycopg

    redis = Redis(port)
    with open(password_file) as file:
        password = file.read()
    with psycopg.connect(uri, password=password) as connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
        connection.commit()
        began = time.monotonic()
        for number in range(sessions):
            redis.send("GET", f"session:{number}")
            carry(cursor, json.loads(redis.read()))
            connection.commit()
        print(f"{sessions / (time.monotonic() - began):.0f}")


def write(port, keys, seconds, rate):
    """Made beforehand, so that whoever is measured has the processors. No value is that of before: each key is stored anew."""
    redis = Redis(port)
    chance, padding, rounds = random.Random(0), b"x" * 988, []
    for value in range(3):
        order = list(range(keys))
        chance.shuffle(order)
        commands = [
            b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$1000\r\n%012d%b\r\n" % (key, value, padding) for key in order
        ]
        rounds += [commands[first : first + PIPELINED] for first in range(0, keys, PIPELINED)]
    rounds = [(b"".join(commands), len(commands)) for commands in rounds]
    written = 0
    began = time.monotonic()
    for commands, count in itertools.cycle(rounds):
        now = time.monotonic() - began
        if now >= seconds:
            break
        if rate and written > rate * now:
            time.sleep(written / rate - now)
        redis.socket.sendall(commands)
        redis.answers.read(len(b"+OK\r\n") * count)
        written += count
    print(written)


def probe(port, count):
    redis = Redis(port)
    for number in range(1, count + 1):
        redis.send("SET", f"probe:{number}", datetime.now(timezone.utc).isoformat())
        redis.read()
        time.sleep(0.02)


if __name__ == "__main__":
    verb, port = sys.argv[1], int(sys.argv[2])
    if verb == "fill":
        fill(port, int(sys.argv[3]))
    elif verb == "write":
        write(port, int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    elif verb == "probe":
        probe(port, int(sys.argv[3]))
    else:
        loop(port, sys.argv[3], int(sys.argv[4]), sys.argv[5])
