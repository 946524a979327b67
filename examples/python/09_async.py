"""Lesson 9, asynchronous I/O: reads and writes of files block, so asyncio gives them to threads.

The loop's own thread goes on ticking. Where the writers share a file, O_APPEND keeps their lines whole.
"""

import asyncio
import threading

WRITERS, LINES = 4, 25
together = threading.Barrier(WRITERS)  # no writer begins before all have a thread


def write_file(number):
    """Blocks its thread: the lines of one writer, to a file of its own and to the shared one."""
    together.wait()
    with open(f"own{number}.txt", "w", encoding="ascii") as own, open("shared.log", "ab", buffering=0) as shared:
        for line in range(LINES):
            text = f"writer {number} line {line:02}\n"
            own.write(text)
            shared.write(text.encode("ascii"))  # one write(2), at the end of the file, in one piece
    return threading.get_ident()


async def tick(until):
    """What the loop can do meanwhile."""
    count = 0
    while not until.is_set():
        count += 1
        await asyncio.sleep(0)
    return count


async def main():
    """All writers at once, and the clock beside them."""
    done = asyncio.Event()
    clock = asyncio.create_task(tick(done))
    threads = await asyncio.gather(*(asyncio.to_thread(write_file, number) for number in range(WRITERS)))
    done.set()
    print(f"{len(set(threads))} threads wrote; the loop ticked meanwhile: {await clock > 0}")


open("shared.log", "wb").close()
asyncio.run(main())
with open("shared.log", encoding="ascii") as shared:
    lines = shared.read().splitlines()
whole = {f"writer {number} line {line:02}" for number in range(WRITERS) for line in range(LINES)}
print(f"shared.log: {len(lines)} lines, all whole: {set(lines) == whole}")
