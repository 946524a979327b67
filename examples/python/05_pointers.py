"""Lesson 5, the file position: seek, tell, r+, a+, and a hole.

lseek(2) itself never reaches a filesystem. It shows in where the next read or write begins.
"""

import os

NAME = "position.bin"

with open(NAME, "wb") as out:
    out.write(b"0123456789" * 2000)

with open(NAME, "rb") as file:
    file.read(10)  # read(2) of a whole buffer; the file object is at 10, the descriptor further on
    print("read 10: tell() is", file.tell(), "and the descriptor is at", os.lseek(file.fileno(), 0, os.SEEK_CUR))
    file.seek(5)  # inside the buffer: no system call
    file.read(10)
    file.seek(15000)  # outside of it
    file.read(10)

with open(NAME, "r+b") as file:  # O_RDWR, nothing is cut off
    file.read(10)
    file.write(b"after ten")  # the descriptor goes back to 10 first

with open(NAME, "a+b") as file:  # O_RDWR|O_APPEND
    print("a+ begins at", file.tell())
    file.seek(0)
    print("and reads anywhere:", file.read(10))
    file.seek(0)
    file.write(b"the end")  # but writes only at the end

with open("hole.bin", "wb", buffering=0) as file:
    file.seek(100_000)
    file.write(b"!")  # 100000 bytes that nobody wrote
    print("hole.bin:", os.fstat(file.fileno()).st_size, "bytes")
