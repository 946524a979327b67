"""Lesson 3, buffering: 1000 writes of 9 bytes, with each value of `buffering`, text and binary."""

import os
import warnings

COUNT = 1000


def write_lines(name, mode, **how):
    """Writes COUNT lines of 9 bytes to `name`, one call of write() for each."""
    encoding = None if "b" in mode else "ascii"
    with open(name, mode, encoding=encoding, **how) as out:
        for number in range(COUNT):
            line = f"{number:08}\n"
            out.write(line if encoding else line.encode("ascii"))
    print(f"{name}: {COUNT} calls of write(), {os.path.getsize(name)} bytes")


write_lines("text-default.txt", "w")
write_lines("text-line.txt", "w", buffering=1)
write_lines("text-1024.txt", "w", buffering=1024)  # of the binary layer only
write_lines("binary-default.bin", "wb")
write_lines("binary-1024.bin", "wb", buffering=1024)
write_lines("binary-none.bin", "wb", buffering=0)

try:
    open("text-none.txt", "w", encoding="ascii", buffering=0)
except ValueError as error:
    print(f"text, buffering=0: {error}")

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    write_lines("binary-line.bin", "wb", buffering=1)
print(f"binary, buffering=1: {caught[0].message}")
