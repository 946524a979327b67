"""Lesson 10, the operating system: what os, io, pathlib, shutil, tempfile and subprocess ask for."""

import io
import os
import pathlib
import shutil
import subprocess
import tempfile

# pathlib: a whole life of a file in one call.
page = pathlib.Path("page.txt")
page.write_text("hello, world\n" * 1000, encoding="ascii")

# io: the same text in memory is no file at all.
memory = io.StringIO()
memory.write(page.read_text(encoding="ascii"))

# shutil: the kernel copies; the bytes never enter this program.
shutil.copyfile(page, "copy.txt")

# subprocess: the child writes to our open file, as its own descriptor 1. What is still in our buffer comes later.
with open("child.txt", "w", encoding="ascii") as out:
    out.write("one, from the parent\n")
    out.flush()
    out.write("two, from the parent\n")
    subprocess.run(["sh", "-c", "echo from the child"], stdout=out, check=True)
print(pathlib.Path("child.txt").read_text(encoding="ascii").splitlines())

# tempfile and os: readers of page.txt see the old text or the new one, never half of it.
with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=".", prefix="page-", delete=False) as new:
    new.write("a new page\n")
    new.flush()
    os.fsync(new.fileno())
os.replace(new.name, page)
directory = os.open(".", os.O_RDONLY)
os.fsync(directory)  # the new name, too
os.close(directory)

# os: names and what is known of them.
with os.scandir(".") as entries:
    sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
print({name: sizes[name] for name in ("page.txt", "copy.txt")}, "and", len(memory.getvalue()), "in memory")
