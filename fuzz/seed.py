"""Fills fuzz/corpus from the captures in tests/data/pgoutput: a file a frame, and a file a message."""

import hashlib
import pathlib

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
