/* The lesson on buffering in C: 1000 lines of 9 bytes, with each mode of setvbuf(3). */
#include <stdio.h>
#include <stdlib.h>

enum { COUNT = 1000, SMALL = 1024 };

static void fail(const char *name)
{
    perror(name);
    exit(EXIT_FAILURE);
}

/* `mode`, `memory` and `size` as of setvbuf(3). */
static void write_lines(const char *name, int mode, char *memory, size_t size)
{
    FILE *out = fopen(name, "w");
    if (out == NULL || setvbuf(out, memory, mode, size) != 0)
        fail(name);
    for (int number = 0; number < COUNT; number++)
        if (fprintf(out, "%08d\n", number) < 0)
            fail(name);
    if (fclose(out) != 0) /* writes the rest, and tells of an error in it */
        fail(name);
}

int main(void)
{
    static char memory[SMALL];

    write_lines("c-default.txt", _IOFBF, NULL, 0);
    write_lines("c-1024.txt", _IOFBF, memory, sizeof memory);
    write_lines("c-no-memory.txt", _IOFBF, NULL, SMALL); /* glibc takes the size of memory it is given only */
    write_lines("c-line.txt", _IOLBF, NULL, 0);
    write_lines("c-none.txt", _IONBF, NULL, 0);
    printf("5 files of %d lines of 9 bytes\n", COUNT);
    return EXIT_SUCCESS;
}
