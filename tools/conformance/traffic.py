"""Traffic for tools/conformance/memory: each phase works in one directory and checks every byte that it reads.
Fails at the first wrong one.

usage: traffic.py PHASE DIR AMOUNT"""

import os
import pathlib
import random
import sys
import threading

MIB = 1 << 20
CHUNK = 64 * 1024
LARGE_FILES = 4
FILES_IN_DIR = 1000


def chunk(name, at, generation):
    """What belongs at an offset: no two files, offsets or generations have the same."""
    return b"%-32s" % f"{name} {at} {generation}\n".encode() * (CHUNK // 32)


def large(top):
    return [top / f"large{i}" for i in range(LARGE_FILES)]


def write_file(path, size, generation):
    with open(path, "wb" if generation == 0 else "r+b", buffering=0) as f:
        for at in range(0, size, CHUNK):
            f.write(chunk(path.name, at, generation))


def read_file(path, size, generation):
    with open(path, "rb", buffering=0) as f:
        for at in range(0, size, CHUNK):
            if f.read(CHUNK) != chunk(path.name, at, generation):
                sys.exit(f"{path}: wrong bytes near {at}")


def stream(top, mib):
    """One file after the other, written and read from start to end."""
    size = mib * MIB // 2 // LARGE_FILES
    for path in large(top):
        write_file(path, size, 0)
    for path in large(top):
        read_file(path, size, 0)


def at_once(top, mib):
    """All files at once: rewritten in place, then read."""
    size = mib * MIB // 2 // LARGE_FILES
    for step in write_file, read_file:
        threads = [threading.Thread(target=step, args=(path, size, 1)) for path in large(top)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def scattered(top, mib):
    """Odd sizes at random offsets of one file, writes and reads by turns, compared to a copy in memory."""
    path, size, left = top / "scattered", 256 * MIB, mib * MIB
    copy, dice = bytearray(size), random.Random(1)
    pattern = dice.randbytes(4 * CHUNK)
    with open(path, "w+b", buffering=0) as f:
        f.truncate(size)
        while left > 0:
            length = dice.choice((100, 511, 4096, 5000, CHUNK, CHUNK + 1, 3 * CHUNK))
            at = dice.randrange(size - length)
            if dice.random() < 0.5:
                start = dice.randrange(len(pattern) - length)
                copy[at : at + length] = pattern[start : start + length]
                os.pwrite(f.fileno(), pattern[start : start + length], at)
            elif os.pread(f.fileno(), length, at) != copy[at : at + length]:
                sys.exit(f"{path}: wrong bytes near {at}")
            left -= length


def sparse(top, count):
    """Two bytes in each of many blocks, none of them whole: the most that a dirty byte can cost."""
    with open(top / "sparse", "w+b", buffering=0) as f:
        for i in range(count):
            os.pwrite(f.fileno(), b"x", i * 10_000)
            os.pwrite(f.fileno(), b"y", i * 10_000 + 2)
        for i in range(0, count, 100):
            if os.pread(f.fileno(), 3, i * 10_000) != b"x\0y":
                sys.exit(f"wrong bytes near {i * 10_000}")


def small_name(top, i):
    return top / f"d{i // FILES_IN_DIR:03}" / f"a file with a name of usual length {i:06}.txt"


def create(top, count):
    """Many small files: made, written and read."""
    for i in range(count):
        path = small_name(top, i)
        if i % FILES_IN_DIR == 0:
            path.parent.mkdir()
        path.write_bytes(b"%d\n" % i * 100)
        if path.read_bytes() != b"%d\n" % i * 100:
            sys.exit(f"{path}: wrong bytes")


def again(top, count):
    """The same files: each found, appended to and read again."""
    for i in range(count):
        path = small_name(top, i)
        with open(path, "ab") as f:
            f.write(b"more\n")
        if path.read_bytes() != b"%d\n" % i * 100 + b"more\n":
            sys.exit(f"{path}: wrong bytes")


def main():
    phases = {f.__name__: f for f in (stream, at_once, scattered, sparse, create, again)}
    phases[sys.argv[1]](pathlib.Path(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
