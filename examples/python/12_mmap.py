"""Lesson 12, memory mapping: a file as memory. Loads and stores are no system calls; pages are what moves."""

import mmap

NAME = "mapped.bin"
PAGE = mmap.PAGESIZE

with open(NAME, "wb") as out:
    out.write(b"a" * (4 * PAGE))

with open(NAME, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as memory:
    print("a load:", memory[0:1])  # a page fault: the page is read
    memory[2 * PAGE : 2 * PAGE + 5] = b"HELLO"  # a store: in memory only, so far
    memory.flush()  # msync(2): the page is written, and the file is synced
    memory[3 * PAGE :] = b"z" * PAGE  # a whole page; nothing is flushed after it
    # At the end of the block, the mapping and the file are closed.

with open(NAME, "rb") as file:
    content = file.read()
print("in the file:", content[2 * PAGE : 2 * PAGE + 5], content[-1:])
