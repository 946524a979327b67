"""Lesson 6, program flow: open, permission check, read, buffer, close, each with what is asked for it."""

import os

NAME = "flow.txt"

with open(NAME, "w", encoding="ascii") as out:
    out.writelines(f"record {number:04}\n" for number in range(100))
os.chmod(NAME, 0o640)

# Asking first is a request of its own, and what it says may be over before the open.
print("may be read:", os.access(NAME, os.R_OK))

file = open(NAME, encoding="ascii")  # the lookup, the permission check, the open; then fstat
first = file.readline()  # one read(2), of everything that fits into the buffer
rest = file.readlines()  # most of it is there already; the read that gives nothing is the end
file.close()
print(f"{1 + len(rest)} records, from {first.strip()!r} to {rest[-1].strip()!r}")

try:
    file.read()
except ValueError as error:
    print("after close:", error)  # Python says so; nobody else is asked
