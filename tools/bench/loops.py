"""What tools/bench/buffer has timed: each loop makes system calls in one directory and nothing else. Prints the
seconds that the calls took, without Python's own start and what has to be there before.

usage: loops.py LOOP DIR"""

import os
import random
import sys
import time

KIB, MIB = 1 << 10, 1 << 20
CACHED = 16 * MIB
COLD = 32 * MIB


def small_writes(top):
    """20 000 writes of 100 bytes to one file, and its close"""
    return write_all(top, 20_000, b"x" * 100)


def block_writes(top):
    """5000 writes of 4 KiB to one file, and its close"""
    return write_all(top, 5_000, b"x" * 4096)


def write_all(top, count, data):
    fd = os.open(top / "written", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    yield
    for _ in range(count):
        os.write(fd, data)
    os.close(fd)


def cached_reads(top):
    """4096 reads of 4 KiB of a file that has been read before"""
    fd = given(top, "cached", CACHED)
    while os.read(fd, MIB):
        pass
    yield
    for at in range(0, CACHED, 4096):
        os.pread(fd, 4096, at)
    os.close(fd)


def first_reads(top):
    """8192 reads of 4 KiB of a file that has not, from its beginning to its end"""
    # Opened by this name for the first time; what is below has it in its page cache.
    fd = given(top, "cold", COLD)
    yield
    while os.read(fd, 4096):
        pass
    os.close(fd)


def synced_writes(top):
    """1000 writes of 4 KiB in random places of a file, with an fsync after each 100"""
    fd, dice = given(top, "synced", CACHED), random.Random(1)
    places = [dice.randrange(CACHED // 4096) * 4096 for _ in range(1000)]
    yield
    for i, at in enumerate(places, 1):
        os.pwrite(fd, b"y" * 4096, at)
        if i % 100 == 0:
            os.fsync(fd)
    os.close(fd)


def small_files(top):
    """2000 files of 1 KiB: made, written and closed"""
    os.mkdir(top / "small")
    yield
    for i in range(2000):
        fd = os.open(top / "small" / f"{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, b"z" * KIB)
        os.close(fd)


def given(top, name, size):
    """A file that was put below before. See `prepare`."""
    fd = os.open(top / name, os.O_RDWR)
    assert os.fstat(fd).st_size == size
    return fd


def prepare(below, loop):
    """Puts into the directory itself what the loop needs."""
    files = {"cached_reads": ("cached", CACHED), "first_reads": ("cold", COLD), "synced_writes": ("synced", CACHED)}
    if loop in files:
        name, size = files[loop]
        piece = random.Random(1).randbytes(MIB)
        with open(below / name, "wb") as f:
            for _ in range(size // MIB):
                f.write(piece)
            # What is dirty below is written now, and not while something else is timed.
            f.flush()
            os.fsync(f.fileno())


LOOPS = {f.__name__: f for f in (small_writes, block_writes, cached_reads, first_reads, synced_writes, small_files)}
CALLS = {"small_writes": 20_000, "block_writes": 5_000, "cached_reads": 4096, "first_reads": 8192, "synced_writes": 1000, "small_files": 2000}


def main():
    import pathlib

    steps = LOOPS[sys.argv[1]](pathlib.Path(sys.argv[2]))
    next(steps)
    start = time.perf_counter()
    next(steps, None)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
