"""An ordinary program's file I/O: what Python's own library does to files. Deterministic: the outcome
on stdout and the tree left behind are the same wherever it runs."""

import csv
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile


def text_files(top, count):
    for i in range(count):
        with open(top / f"t{i:04}.txt", "w", encoding="utf-8") as f:
            for line in range(i % 50):
                print(f"{i} {line} äöü", file=f)
    with open(top / "t0001.txt", "a+", encoding="utf-8") as f:
        f.write("appended\n")
        f.seek(0)
        print("append", len(f.read()))


def update_in_place(top):
    path = top / "records.bin"
    path.write_bytes(bytes(100 * 64))
    with open(path, "r+b", buffering=0) as f:
        for i in (5, 99, 0, 42):
            f.seek(i * 64)
            f.write(bytes([i]) * 64)
        f.truncate(90 * 64)
        os.fsync(f.fileno())
    print("records", path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def mapped(top):
    path = top / "mapped.bin"
    path.write_bytes(bytes(20000))
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[4090:4100] = b"0123456789"
        m[19999] = 7
        m.flush()
        print("mapped", m.find(b"567"))
    print("read back", path.read_bytes()[4090:4100], path.read_bytes()[-1])


def atomic_replace(top):
    target = top / "state.json"
    for generation in range(20):
        fd, name = tempfile.mkstemp(dir=top)
        with os.fdopen(fd, "w") as f:
            json.dump({"generation": generation}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(name, target)
    print("state", json.loads(target.read_text()))


def trees(top):
    deep = top / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to("../../target")
    (top / "a" / "target").write_text("through a link")
    print("link", (deep / "link").read_text())
    shutil.copytree(top / "a", top / "copy", symlinks=True)
    shutil.move(top / "copy" / "b", top / "moved")
    os.link(top / "a" / "target", top / "second name")
    print("links", (top / "second name").stat().st_nlink)
    shutil.rmtree(top / "copy")
    print("walk", sum(len(names) for _, _, names in os.walk(top)), sorted(p.name for p in top.glob("[a-s]*")))


def archives(top):
    with zipfile.ZipFile(top / "z.zip", "w") as z:
        for i in range(30):
            z.writestr(zipfile.ZipInfo(f"member{i}"), str(i) * i)
    with zipfile.ZipFile(top / "z.zip") as z:
        print("zip", z.testzip(), len(z.namelist()))
    with open(top / "table.csv", "w", newline="") as f:
        csv.writer(f).writerows([i, i * i] for i in range(1000))
    with open(top / "table.csv", newline="") as f:
        print("csv", sum(int(row[1]) for row in csv.reader(f)))


def errors(top):
    for what, call in {
        "missing": lambda: open(top / "no such file"),
        "directory": lambda: open(top / "a", "w"),
        "not empty": lambda: os.rmdir(top / "a"),
        "exists": lambda: open(top / "state.json", "x"),
        "not a directory": lambda: os.listdir(top / "state.json"),
    }.items():
        try:
            call()
            print(what, "succeeded")
        except OSError as e:
            print(what, type(e).__name__, e.errno)


def main():
    top, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    text_files(top, count)
    update_in_place(top)
    mapped(top)
    atomic_replace(top)
    trees(top)
    archives(top)
    errors(top)


if __name__ == "__main__":
    main()
