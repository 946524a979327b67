"""Lesson 2, file objects: three layers of Python above one descriptor, and what descriptors share.

TextIOWrapper encodes, BufferedWriter collects, FileIO calls write(2) with the descriptor.
"""

import os

text = open("layers.txt", "w", encoding="ascii")
binary, raw = text.buffer, text.buffer.raw
print([type(layer).__name__ for layer in (text, binary, raw)], "above descriptor", text.fileno())

text.write("one\n")  # waits in the text layer
binary.write(b"two\n")  # waits in the binary layer, below "one"
raw.write(b"six\n")  # a system call, now
text.close()  # "one" goes down behind "two", then both go out

with open("layers.txt", encoding="ascii") as back:
    print("in the file:", back.read().split())

# A copy of a descriptor is the same open file: one position for both. A second open is another one.
first = os.open("shared.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
copy = os.dup(first)
os.write(first, b"written by the first, ")
os.write(copy, b"and by its copy\n")
second = os.open("shared.txt", os.O_RDWR)
os.write(second, b"WRITTEN")  # from byte 0 again

# A file object need not own its descriptor.
borrowed = open(first, "rb", closefd=False)
borrowed.seek(0)
print("shared.txt:", borrowed.read())
borrowed.close()  # no close(2)
for descriptor in (first, copy, second):
    os.close(descriptor)
