"""Lesson 1, the basics: open, write, append, read, close.

A mode string is a set of open(2) flags, and most methods of a file object make no system call at all.
"""

NAME = "basics.txt"

out = open(NAME, "w", encoding="ascii")  # made, or emptied: O_WRONLY|O_CREAT|O_TRUNC
out.write("first line\n")  # eleven characters into Python's buffer
out.close()  # write(2), then close(2)

with open(NAME, "a", encoding="ascii") as out:  # O_APPEND: at the end, wherever that is
    out.write("second line\n")

with open(NAME, encoding="ascii") as back:  # O_RDONLY
    lines = [line.rstrip("\n") for line in back]
print(f"{NAME}: {lines}")

try:
    open(NAME, "x", encoding="ascii")  # O_CREAT|O_EXCL: only if it is not there
except FileExistsError as error:
    print(f"mode x: {error}")
