"""Lesson 13, garbage collection: files that nobody closes, and when they are closed after all."""

import gc
import os
import warnings

warnings.simplefilter("always", ResourceWarning)


def size(name):
    """What has arrived so far."""
    return os.stat(name).st_size


class Owner:
    """Holds a file, and itself."""

    def __init__(self, name):
        self.file = open(name, "w", encoding="ascii")
        self.file.write("held\n")
        self.me = self  # a cycle: no count of references will ever be 0


# The last reference goes: CPython writes and closes at once, and warns.
with warnings.catch_warnings(record=True) as caught:
    open("dropped.txt", "w", encoding="ascii").write("dropped\n")
print("dropped.txt:", size("dropped.txt"), "bytes;", caught[0].category.__name__)

# In a cycle it waits for the collector. That may close the descriptor first: then the data has nowhere to go.
gc.disable()  # not before we say so
owner = Owner("cycle.txt")
del owner
before = size("cycle.txt")
with warnings.catch_warnings(record=True) as caught:
    gc.collect()
gc.enable()
print("cycle.txt:", before, "bytes, and", size("cycle.txt"), "after the collection;", caught[0].category.__name__)

# Nobody owns a bare descriptor: it is closed by the end of the process.
bare = os.open("bare.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(bare, b"bare\n")

# Still referenced at the end: CPython writes and closes it as it shuts down, if nothing goes wrong before.
left = open("left.txt", "w", encoding="ascii")
left.write("left\n")
print("left.txt:", size("left.txt"), "bytes so far")
