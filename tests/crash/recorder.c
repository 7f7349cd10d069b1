/* What a process does to the files below one folder, in order, as a log; and failures on demand.
 *
 * Loaded by LD_PRELOAD, asleep until crash_watch. It keeps no table of descriptors: what a descriptor is, /proc/self/fd says,
 * so copies of descriptors, forks and close need no care. One lock is held across a call and its record: the log has the
 * order in which things happened. Calls that glibc makes inside itself (fwrite) are not seen; record.py compares the folder
 * with the log at the end, and says so.
 *
 * A record: struct head, the path, the other path, the data. states.py reads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct head {
    uint8_t kind, flag;
    uint16_t path, other, unused;
    uint64_t node;  /* inode: not used again while the file has a name or is open */
    int64_t offset;
    uint64_t data;
} __attribute__((packed));

enum { CREATED = 1, TRUNCATED = 2, FAILED = 1 };
enum { ONCE, SHORT, FULL };  /* fail one call; write only half; no space from here on */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], swallowed[256];
static size_t root_length;
static int log_file = -1;
static long calls, fail_at = -1;
static int fail_error, fail_mode;
static char failed[PATH_MAX + 2];  /* kind and path of the first call that was made to fail */

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void lock_it(void) { pthread_mutex_lock(&lock); }
static void unlock_it(void) { pthread_mutex_unlock(&lock); }
__attribute__((constructor)) static void start(void) { pthread_atfork(lock_it, unlock_it, unlock_it); }

/* --- what is below the folder ------------------------------------------------------------------------------------ */

/* The path from the folder on, "." for the folder itself, NULL for what lies elsewhere. */
static const char *below(const char *absolute) {
    if (!root_length || strncmp(absolute, root, root_length)) return NULL;
    if (!absolute[root_length]) return ".";
    return absolute[root_length] == '/' ? absolute + root_length + 1 : NULL;
}

static const char *of_descriptor(int fd, char *room) {
    char link[64];
    if (!root_length || fd < 0 || fd == log_file) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, PATH_MAX - 1);
    if (length < 0) return NULL;
    room[length] = 0;
    return below(room);
}

static const char *of_path(int folder, const char *path, char *room) {
    char whole[PATH_MAX], link[64];
    if (!root_length || !path) return NULL;
    if (path[0] == '/') snprintf(whole, sizeof whole, "%s", path);
    else if (folder == AT_FDCWD) snprintf(whole, sizeof whole, "/proc/self/cwd/%s", path);
    else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        snprintf(whole, sizeof whole, "%s/%s", link, path);
    }
    size_t length = strlen(whole);
    while (length > 1 && whole[length - 1] == '/') whole[--length] = 0;
    char *name = strrchr(whole, '/') + 1, last[NAME_MAX + 1];
    if (!*name || !strcmp(name, ".") || !strcmp(name, "..")) return realpath(whole, room) ? below(room) : NULL;
    snprintf(last, sizeof last, "%s", name);
    *name = 0;
    if (!realpath(whole, room)) return NULL;  /* the last part is not followed: rename and unlink act on the name */
    length = strlen(room);
    snprintf(room + length, PATH_MAX - length, "%s%s", length > 1 ? "/" : "", last);
    return below(room);
}

static uint64_t node_of(int fd) {
    struct stat facts;
    return fstat(fd, &facts) ? 0 : facts.st_ino;
}

static void record(char kind, int flag, uint64_t node, int64_t offset, const char *path, const char *other, const void *data,
                   size_t size) {
    struct head head = {(uint8_t)kind, (uint8_t)flag, path ? strlen(path) : 0, other ? strlen(other) : 0, 0, node, offset, size};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)other, head.other}, {(void *)data, size}};
    REAL(ssize_t, writev, int, const struct iovec *, int);
    int saved = errno;
    if (log_file >= 0 && real(log_file, parts, 4) != (ssize_t)(sizeof head + head.path + head.other + size)) {
        fprintf(stderr, "recorder: the log cannot be written\n");
        abort();
    }
    errno = saved;
}

/* --- failures ---------------------------------------------------------------------------------------------------- */

/* Counts a call that can fail. 0: go on. -1: fail, errno is set. 1: a short write. */
static int fate(char kind, const char *path) {
    long number = calls++;
    int hit = fail_at >= 0 && (fail_mode == FULL ? number >= fail_at && strchr("waold", kind) != NULL : number == fail_at);
    if (!hit) return 0;
    if (fail_mode == SHORT && kind != 'w') return 0;
    if (!failed[0]) snprintf(failed, sizeof failed, "%c%s", kind, path);
    if (fail_mode == SHORT) return 1;
    errno = fail_error;
    return -1;
}

/* --- called by Python -------------------------------------------------------------------------------------------- */

void crash_watch(const char *folder, const char *file) {
    REAL(int, open, const char *, int, ...);
    pthread_mutex_lock(&lock);
    if (!realpath(folder, root)) abort();
    root_length = strlen(root);
    log_file = file ? real(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    pthread_mutex_unlock(&lock);
}

/* Syncs of what matches (fnmatch on the path from the folder on) are neither done nor recorded. */
void crash_swallow(const char *pattern) { snprintf(swallowed, sizeof swallowed, "%s", pattern); }

void crash_fail(long at, int error, int mode) {
    calls = 0, failed[0] = 0, fail_at = at, fail_error = error, fail_mode = mode;
}

long crash_calls(void) { return calls; }
const char *crash_failed(void) { return failed; }

void crash_mark(const char *text) {
    pthread_mutex_lock(&lock);
    record('m', 0, 0, 0, NULL, NULL, text, strlen(text));
    pthread_mutex_unlock(&lock);
}

/* --- files ------------------------------------------------------------------------------------------------------- */

static int opened(int folder, const char *path, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, ...);
    char room[PATH_MAX];
    const char *name = of_path(folder, path, room);
    if (!name) return real(folder, path, flags, mode);
    struct stat before;
    pthread_mutex_lock(&lock);
    int missing = (flags & O_CREAT) && fstatat(folder, path, &before, 0);
    int fd = missing && fate('o', name) ? -1 : real(folder, path, flags, mode);
    if (fd >= 0 && (flags & (O_WRONLY | O_RDWR | O_CREAT)))
        record('o', (missing ? CREATED : 0) | (flags & O_TRUNC ? TRUNCATED : 0), node_of(fd), 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name, folder, ...) \
    int name(__VA_ARGS__, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, int); \
            va_end(rest); \
        } \
        return opened(folder, path, flags, mode); \
    }
OPEN(open, AT_FDCWD, const char *path)
OPEN(open64, AT_FDCWD, const char *path)
OPEN(openat, folder, int folder, const char *path)
OPEN(openat64, folder, int folder, const char *path)
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* offset -1: where the descriptor stands. */
static ssize_t written(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, write, int, const void *, size_t);
    static ssize_t (*at)(int, const void *, size_t, off_t);
    if (!at) at = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    char room[PATH_MAX];
    const char *name = of_descriptor(fd, room);
    if (!name) return offset < 0 ? real(fd, data, size) : at(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    int what = size ? fate('w', name) : 0;
    if (what > 0 || (what < 0 && fail_mode == FULL && failed[0] == 'w' && calls - 1 == fail_at)) size -= size / 2, what = 0;
    ssize_t done = what ? -1 : offset < 0 ? real(fd, data, size) : at(fd, data, size, offset);
    if (done > 0) record('w', 0, node_of(fd), offset < 0 ? lseek(fd, 0, SEEK_CUR) - done : offset, name, NULL, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }

/* Part by part: each is a write of its own, and may be lost alone. */
static ssize_t gathered(int fd, const struct iovec *parts, int count, off_t offset) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = written(fd, parts[i].iov_base, parts[i].iov_len, offset < 0 ? -1 : offset + total);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    char room[PATH_MAX];
    return of_descriptor(fd, room) ? gathered(fd, parts, count, -1) : real(fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
    char room[PATH_MAX];
    return of_descriptor(fd, room) ? gathered(fd, parts, count, offset) : real(fd, parts, count, offset);
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    REAL(ssize_t, pwritev2, int, const struct iovec *, int, off_t, int);
    char room[PATH_MAX];
    return of_descriptor(fd, room) ? gathered(fd, parts, count, offset) : real(fd, parts, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return pwritev2(fd, parts, count, offset, flags);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev(fd, parts, count, offset); }

/* Copies inside the kernel would not be seen; callers fall back to read and write. */
ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    char room[PATH_MAX];
    if (!of_descriptor(to, room)) return real(to, from, offset, size);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t size) { return sendfile(to, from, offset, size); }
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *offset, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    char room[PATH_MAX];
    if (!of_descriptor(to, room)) return real(from, at, to, offset, size, flags);
    errno = ENOSYS;
    return -1;
}

int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t);
    char room[PATH_MAX];
    const char *name = of_descriptor(fd, room);
    if (!name) return real(fd, size);
    pthread_mutex_lock(&lock);
    int result = fate('t', name) ? -1 : real(fd, size);
    if (!result) record('t', 0, node_of(fd), size, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fallocate(int fd, int mode, off_t offset, off_t size) {
    REAL(int, fallocate, int, int, off_t, off_t);
    char room[PATH_MAX];
    const char *name = of_descriptor(fd, room);
    if (!name) return real(fd, mode, offset, size);
    if (mode) {  /* holes and the like have no model */
        errno = EOPNOTSUPP;
        return -1;
    }
    pthread_mutex_lock(&lock);
    int result = fate('a', name) ? -1 : real(fd, mode, offset, size);
    if (!result) record('a', 0, node_of(fd), offset + size, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int fallocate64(int fd, int mode, off_t offset, off_t size) { return fallocate(fd, mode, offset, size); }
int posix_fallocate(int fd, off_t offset, off_t size) { return fallocate(fd, 0, offset, size) ? errno : 0; }
int posix_fallocate64(int fd, off_t offset, off_t size) { return posix_fallocate(fd, offset, size); }

static int synced(int fd, int (*real)(int)) {
    char room[PATH_MAX];
    const char *name = of_descriptor(fd, room);
    if (!name) return real(fd);
    if (swallowed[0] && !fnmatch(swallowed, name, 0)) return 0;
    pthread_mutex_lock(&lock);
    int result = fate('s', name) ? -1 : real(fd);
    record('s', result ? FAILED : 0, node_of(fd), 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int fd) {
    REAL(int, fsync, int);
    return synced(fd, real);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return synced(fd, real);
}

void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t offset) {
    REAL(void *, mmap, void *, size_t, int, int, int, off_t);
    char room[PATH_MAX];
    const char *name = (flags & MAP_SHARED) && (protection & PROT_WRITE) ? of_descriptor(fd, room) : NULL;
    if (name) record('p', 0, node_of(fd), offset, name, NULL, NULL, 0);
    return real(where, size, protection, flags, fd, offset);
}
void *mmap64(void *where, size_t size, int protection, int flags, int fd, off_t offset) {
    return mmap(where, size, protection, flags, fd, offset);
}

/* --- names ------------------------------------------------------------------------------------------------------- */

/* `from` and `to` may lie elsewhere: such a move has no model, and its record has an empty path. */
static int named(char kind, int from_folder, const char *from, int to_folder, const char *to, int (*act)(int, const char *, int, const char *, int), int flags) {
    char room[PATH_MAX], other_room[PATH_MAX];
    const char *name = of_path(from_folder, from, room), *other = of_path(to_folder, to, other_room);
    if (!name && !other) return act(from_folder, from, to_folder, to, flags);
    pthread_mutex_lock(&lock);
    int result = fate(kind, other ? other : name) ? -1 : act(from_folder, from, to_folder, to, flags);
    if (!result) record(kind, 0, 0, 0, name, other, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
static int really_rename(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return real(from_folder, from, to_folder, to, flags);
}
static int really_link(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return real(from_folder, from, to_folder, to, flags);
}
int rename(const char *from, const char *to) { return named('r', AT_FDCWD, from, AT_FDCWD, to, really_rename, 0); }
int renameat(int a, const char *from, int b, const char *to) { return named('r', a, from, b, to, really_rename, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return named('r', a, from, b, to, really_rename, flags); }
int link(const char *from, const char *to) { return named('l', AT_FDCWD, from, AT_FDCWD, to, really_link, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return named('l', a, from, b, to, really_link, flags); }

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char room[PATH_MAX];
    const char *name = of_path(folder, path, room);
    if (!name) return real(folder, path, flags);
    pthread_mutex_lock(&lock);
    int result = fate('u', name) ? -1 : real(folder, path, flags);
    if (!result) record('u', 0, 0, 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char room[PATH_MAX];
    const char *name = of_path(folder, path, room);
    if (!name) return real(folder, path, mode);
    pthread_mutex_lock(&lock);
    struct stat facts;
    int result = fate('d', name) ? -1 : real(folder, path, mode);
    if (!result && !fstatat(folder, path, &facts, 0)) record('d', 0, facts.st_ino, 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
