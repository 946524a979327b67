"""Lesson 11, errors: ENOENT, EISDIR, EACCES, and ENOSPC where only flush() or close() can tell.

EACCES is for ordinary users: root may read everything. The disk is filled only where it is small.
"""

import errno
import os

SMALL = 64 * 1024 * 1024
LEFT = 256 * 1024


def told(what, function, *args, **how):
    """What `function` raised, if anything."""
    try:
        function(*args, **how)
    except OSError as error:
        print(f"{what}: {errno.errorcode[error.errno]}, {type(error).__name__}")
    else:
        print(f"{what}: fine")


told("a file that is not there", open, "missing.txt", "rb")

os.makedirs("directory", exist_ok=True)
told("a directory", open, "directory", "wb")

with open("secret.txt", "wb") as out:
    out.write(b"for nobody\n")
os.chmod("secret.txt", 0)
told("a file that may not be read", open, "secret.txt", "rb")


def fill_the_disk(free):
    """Leaves LEFT bytes, and writes twice as many. The buffer of Python takes all and says that all is well."""
    with open("ballast.bin", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, free - LEFT)
    file = open("full.bin", "wb", buffering=4 * LEFT)
    told("write()", file.write, bytes(2 * LEFT))  # into the buffer of Python
    told("flush()", file.flush)  # to the system: half of it finds a place
    told("close()", file.close)  # tries once more with what is left
    print("closed all the same:", file.closed)
    os.remove("full.bin")
    os.remove("ballast.bin")


filesystem = os.statvfs(".")
available = filesystem.f_bavail * filesystem.f_frsize
if available <= SMALL:
    fill_the_disk(available)
else:
    print("the disk is too large to be filled here")
os.remove("secret.txt")
