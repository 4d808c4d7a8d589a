/* Kills the program that this is preloaded into, by SIGKILL, before a step by which it changes what is on disk, or tells
 * another program something. The step is in KILLED_BEFORE: its kind, its number among those that fit, and a part of the name
 * that it is about, such as `mkdir 1 today.partial`. Kinds are `mkdir`, `unlink`, `fsync` and `chown`; `rename` and `link`,
 * whose name is both, with `>` between them; `open`, after which a new file is there and empty; and `write`, whose name is what is
 * written, to a file, a socket or a terminal. Programs that it runs live on. */
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char kind[16];
static int left;
static char name[256];

__attribute__((constructor)) static void read_step(void) {
    const char *step = getenv("KILLED_BEFORE");
    if (!step || sscanf(step, "%15s %d %255[^\n]", kind, &left, name) != 3)
        _exit(127);
    unsetenv("LD_PRELOAD");
    unsetenv("KILLED_BEFORE");
}

static void one_fits(void) {
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) == 0)
        kill(getpid(), SIGKILL);
}

static void at(const char *step, const char *path) {
    if (strcmp(step, kind) == 0 && strstr(path, name))
        one_fits();
}

static void at_bytes(const void *bytes, size_t length) {
    if (strcmp("write", kind) == 0 && memmem(bytes, length, name, strlen(name)))
        one_fits();
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

int chown(const char *path, uid_t user, gid_t group) {
    at("chown", path);
    return (int)syscall(SYS_fchownat, AT_FDCWD, path, user, group, 0);
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

ssize_t write(int file, const void *bytes, size_t length) {
    at_bytes(bytes, length);
    return syscall(SYS_write, file, bytes, length);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    for (int part = 0; part < count; part++)
        at_bytes(parts[part].iov_base, parts[part].iov_len);
    return syscall(SYS_writev, file, parts, count);
}

ssize_t send(int socket, const void *bytes, size_t length, int flags) {
    at_bytes(bytes, length);
    return syscall(SYS_sendto, socket, bytes, length, flags, NULL, 0);
}
