/* One loop of system calls on files of a directory; prints the seconds that it took, its open and close included.
 *
 * usage: calls write|rewrite|read|reread SIZE COUNT FILE    one behind the other; `re`: at random places of 64 MiB
 *        calls small|stat COUNT DIR                          files of 1000 bytes made; files asked for
 *        calls open FILES COUNT DIR                          writes of 100 bytes to any of so many files that are open; the writes alone
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { AREA = 64 << 20 };

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void must(int worked, const char *what)
{
    if (!worked) {
        fprintf(stderr, "calls: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static uint64_t state = 88172645463325252u; /* xorshift64: the same places every time */

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void flow(const char *mode, size_t size, long count, const char *path)
{
    int writes = strstr(mode, "write") != NULL, scattered = mode[0] == 'r' && mode[1] == 'e' && strlen(mode) > 4;
    char *bytes = malloc(size);
    must(bytes != NULL, "malloc");
    memset(bytes, 'x', size);
    int fd = open(path, writes ? O_WRONLY | O_CREAT : O_RDONLY, 0644);
    must(fd >= 0, path);
    for (long i = 0; i < count; i++) {
        ssize_t done;
        if (scattered) {
            off_t at = (off_t)(next() % (AREA / size) * size);
            done = writes ? pwrite(fd, bytes, size, at) : pread(fd, bytes, size, at);
        } else {
            done = writes ? write(fd, bytes, size) : read(fd, bytes, size);
        }
        must(done == (ssize_t)size, mode);
    }
    must(close(fd) == 0, "close");
}

static void files(const char *mode, long count, const char *dir)
{
    char path[4096], bytes[1000];
    memset(bytes, 'x', sizeof bytes);
    for (long i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/file-%ld", dir, i);
        if (strcmp(mode, "stat") == 0) {
            struct stat st;
            must(stat(path, &st) == 0, path);
            continue;
        }
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        must(fd >= 0, path);
        must(write(fd, bytes, sizeof bytes) == sizeof bytes, "write");
        must(close(fd) == 0, "close");
    }
}

/* Prints for itself: what it takes to open the files is not of interest. */
static void many(long count, long calls, const char *dir)
{
    char path[4096], bytes[100];
    memset(bytes, 'x', sizeof bytes);
    struct rlimit limit;
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
    int *fds = malloc(sizeof *fds * count);
    must(fds != NULL, "malloc");
    for (long i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/open-%ld", dir, i);
        fds[i] = open(path, O_WRONLY | O_CREAT, 0644);
        must(fds[i] >= 0, path);
    }
    double begun = now();
    for (long i = 0; i < calls; i++)
        must(write(fds[next() % count], bytes, sizeof bytes) == sizeof bytes, "write");
    printf("%.6f\n", now() - begun);
    fflush(stdout);
    exit(0);
}

int main(int argc, char **argv)
{
    double begun = now();
    if (argc == 5 && strcmp(argv[1], "open") == 0)
        many(atol(argv[2]), atol(argv[3]), argv[4]);
    else if (argc == 5)
        flow(argv[1], strtoul(argv[2], NULL, 10), atol(argv[3]), argv[4]);
    else if (argc == 4)
        files(argv[1], atol(argv[2]), argv[3]);
    else
        return 2;
    printf("%.6f\n", now() - begun);
    return 0;
}
