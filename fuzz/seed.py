"""Fills fuzz/corpus: from the captures in tests/data/pgoutput a file a frame, and a file a message; from the examples in
docs/archive-format.md the objects of an archive. With `age` and `zstd` installed, compressed and encrypted ones too."""

import hashlib
import pathlib
import re
import shutil
import subprocess

root = pathlib.Path(__file__).resolve().parent


def seed(target, data):
    directory = root / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


for capture in (root.parent / "tests/data/pgoutput").glob("*.txt"):
    in_stream = False
    for line in capture.read_text().splitlines():
        if line.startswith("#"):
            continue
        frame = bytes.fromhex(line)
        seed("frame_decode", frame)
        if frame[:1] != b"w":
            continue
        body = frame[25:]
        seed("pgoutput_decode", bytes([in_stream]) + body)
        if body[:1] in b"SE":
            in_stream = body[:1] == b"S"


# Of the identity in fuzz_targets/age_open.rs.
RECIPIENT = "age1u2y7skj7kuj7tzuypalrs6zm2g5t4wsxtrf6hjx4qjjyyx5pcqvsmzqp6d"


def through(command, data):
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


document = (root.parent / "docs/archive-format.md").read_text()
for mark, block in re.findall(r"<!-- made: (\w+) -->\n```\w+\n(.*?)```", document, re.DOTALL):
    data = block.encode()
    if mark == "file":
        seed("archive_file", b"\0" + data)
        for line in data.splitlines():
            seed("archive_row", line)
        if shutil.which("zstd"):
            data = through(["zstd", "-c"], data)
            seed("archive_file", b"\1" + data)
            if shutil.which("age"):
                seed("age_open", through(["age", "-r", RECIPIENT], data))
    elif mark in ("identity", "claim", "manifest", "base", "reader"):
        seed("archive_object", data)

for capture in (root.parent / "tests/data/redis").glob("*.stream"):
    seed("redis_commands", capture.read_bytes())
for capture in (root.parent / "tests/data/redis").glob("*.replies"):
    seed("redis_replies", capture.read_bytes())
seed("redis_document", b'{"user_id": "u1", "messages": [{"content": "a\\u00e9", "sender_id": "u1", "timestamp": 1.5e9}]}')
