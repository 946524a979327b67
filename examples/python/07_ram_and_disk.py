"""Lesson 7, data in RAM and data on disk: where 4000 bytes are while the program runs."""

import os

NAME = "journey.bin"
DATA = b"d" * 4000


def seen(when):
    """The size that every other program sees now."""
    print(f"{when:24} others see {os.stat(NAME).st_size} bytes")


out = open(NAME, "wb", buffering=8192)
out.write(DATA)
seen("after write()")  # in the memory of this process
out.flush()
seen("after flush()")  # in a cache of the system: safe from a crash of the program
os.fsync(out.fileno())
seen("after os.fsync()")  # on disk: safe from a crash of the machine
out.write(DATA)
out.close()
seen("after close()")  # in a cache again: close() is no fsync


def child_that_dies(name, flushes):
    """A process that writes and ends without closing, and without Python's own end."""
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    file = open(name, "wb", buffering=8192)
    file.write(DATA)
    if flushes:
        file.flush()
    os._exit(0)


child_that_dies("lost.bin", flushes=False)
child_that_dies("kept.bin", flushes=True)
for name in ("lost.bin", "kept.bin"):
    print(f"{name}: {os.path.getsize(name)} of {len(DATA)} bytes are there")
