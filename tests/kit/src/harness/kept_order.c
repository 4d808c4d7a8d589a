/* Records the order in which a program that this is preloaded into makes its files survive a crash: a line for each fsync
 * and rename, in the file that KEPT_ORDER names. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void note(const char *what, const char *from, const char *to) {
    const char *name = getenv("KEPT_ORDER");
    char line[2 * PATH_MAX + 16];
    int length = snprintf(line, sizeof line, "%s %s%s%s\n", what, from, to ? " " : "", to ? to : "");
    int file = name ? open(name, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (file < 0 || length < 0 || write(file, line, strlen(line)) < 0)
        _exit(127);
    close(file);
}

static int kept(int file, int failed) {
    char place[64], path[PATH_MAX];
    snprintf(place, sizeof place, "/proc/self/fd/%d", file);
    ssize_t length = readlink(place, path, sizeof path - 1);
    if (!failed && length > 0) {
        path[length] = 0;
        note("sync", path, NULL);
    }
    return failed;
}

int fsync(int file) { return kept(file, (int)syscall(SYS_fsync, file)); }

int fdatasync(int file) { return kept(file, (int)syscall(SYS_fdatasync, file)); }

int rename(const char *from, const char *to) {
    int failed = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!failed)
        note("rename", from, to);
    return failed;
}
