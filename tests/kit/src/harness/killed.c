/* Kills the program that this is preloaded into, by SIGKILL, before a step by which it changes what is on disk. The step is
 * in KILLED_BEFORE: its kind and a part of the name that it is about, such as `mkdir today.partial`. Kinds are `mkdir`,
 * `unlink` and `fsync`; `rename` and `link`, whose name is both, with `>` between them; and `open`, after which a new file is
 * there and empty. Programs that it runs live on. */
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char kind[16];
static char name[256];

__attribute__((constructor)) static void read_step(void) {
    const char *step = getenv("KILLED_BEFORE");
    if (!step || sscanf(step, "%15s %255[^\n]", kind, name) != 2)
        _exit(127);
    unsetenv("LD_PRELOAD");
    unsetenv("KILLED_BEFORE");
}

static void at(const char *step, const char *path) {
    if (strcmp(step, kind) == 0 && strstr(path, name))
        kill(getpid(), SIGKILL);
}

static void at_two(const char *step, const char *from, const char *to) {
    char both[8192];
    snprintf(both, sizeof both, "%s>%s<", from, to);
    at(step, both);
}

int rename(const char *from, const char *to) {
    at_two("rename", from, to);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    at_two("link", from, to);
    return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    at("mkdir", path);
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int unlink(const char *path) {
    at("unlink", path);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int fsync(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        at("fsync", path);
    }
    return (int)syscall(SYS_fsync, file);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? (mode_t)va_arg(arguments, int) : 0;
    va_end(arguments);
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (file >= 0 && flags & O_CREAT)
        at("open", path);
    return file;
}
