"""Lesson 4, memory: a file of 512 KiB read whole, in chunks, by lines, and into one buffer."""

import tracemalloc

NAME = "memory.txt"
LINES, LINE = 8192, b"x" * 63 + b"\n"
CHUNK = 64 * 1024

with open(NAME, "wb") as out:
    out.writelines(LINE for _ in range(LINES))


def whole():
    """All bytes at once."""
    with open(NAME, "rb") as file:
        return len(file.read())


def in_chunks():
    """A piece at a time, each a new object."""
    total = 0
    with open(NAME, "rb") as file:
        while chunk := file.read(CHUNK):
            total += len(chunk)
    return total


def by_lines():
    """A line at a time: what is asked of the kernel is a buffer at a time."""
    with open(NAME, encoding="ascii") as file:
        return sum(len(line) for line in file)


def into_one_buffer():
    """A piece at a time, always into the same memory."""
    total, memory = 0, bytearray(CHUNK)
    with open(NAME, "rb", buffering=0) as file:
        while size := file.readinto(memory):
            total += size
    return total


for read in (whole, in_chunks, by_lines, into_one_buffer):
    tracemalloc.start()
    size = read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{read.__name__:16} {size} bytes, at most {peak // 1024:4} KiB of memory")
