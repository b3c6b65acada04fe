"""Writes an LMDB as the library writes it, short and long values, and rewritten ones, in several transactions.

    python stages/tests/reference/lmdb_files.py stages/tests/fixtures/mmf/lmdb

Needs a Python package lmdb that brings LMDB 0.9 (lmdb before 2), as MMF has it.
"""
import pathlib
import sys

import lmdb

folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
assert lmdb.version() < (0, 10), lmdb.version()
with lmdb.open(str(folder), map_size=1 << 20, lock=False) as env:
    for start in range(0, 300, 100):
        with env.begin(write=True) as transaction:
            for number in range(start, start + 100):
                transaction.put(str(number).encode(), b"something else")
        with env.begin(write=True) as transaction:
            for number in range(start, start + 100):
                value = f"value of {number}" * (400 if number % 50 == 0 else 1)
                transaction.put(str(number).encode(), value.encode())
