"""Lesson 8, context managers: `with` closes, whatever happens inside."""

import contextlib
import os

with open("plain.txt", "w", encoding="ascii") as out:
    out.write("closed at the end of the block\n")
print("plain.txt:", os.path.getsize("plain.txt"), "bytes; closed:", out.closed)

try:
    with open("broken.txt", "w", encoding="ascii") as out:
        out.write("written before the error\n")
        raise RuntimeError("in the middle")
except RuntimeError:
    # The file was written out and closed before anybody heard of the error.
    print("broken.txt:", os.path.getsize("broken.txt"), "bytes; closed:", out.closed)

# Nested: the last that was opened is the first that is closed.
with open("outer.txt", "w", encoding="ascii") as outer, open("inner.txt", "w", encoding="ascii") as inner:
    outer.write("outer\n")
    inner.write("inner\n")

# As many as there are: ExitStack closes them in the same order.
with contextlib.ExitStack() as stack:
    names = [f"part{number}.txt" for number in range(3)]
    parts = [stack.enter_context(open(name, "w", encoding="ascii")) for name in names]
    for part in parts:
        part.write("part\n")
print("all closed:", all(part.closed for part in parts))
