"""A first program to watch: writes 1000 short lines to first.txt here, and reads them back."""

NAME = "first.txt"
COUNT = 1000

with open(NAME, "w", encoding="ascii") as out:
    for number in range(COUNT):
        out.write(f"line {number}\n")

with open(NAME, encoding="ascii") as back:
    lines = back.readlines()

assert lines == [f"line {number}\n" for number in range(COUNT)], "what was read is not what was written"
print(f"wrote and read back {len(lines)} lines, {sum(map(len, lines))} bytes, in {NAME}")
