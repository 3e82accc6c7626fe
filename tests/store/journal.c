/* Preloaded into the process that writes a store: keeps a journal of every change it asks of the file system under
 * MAINSTAY_TEST_STORE, in order, so that the test can rebuild what a power loss would leave at any moment.
 *
 * A record is a letter and three 64-bit numbers, then so many bytes:
 *   W offset length synchronous   bytes are being written to data.mdb; synchronous ones are durable once E follows
 *   E 0 0 0                       that write has returned
 *   S 0 0 0                       data.mdb was synchronised
 *   R 0 0 0                       the identity file was renamed into place
 *   D 0 0 0                       the directory was synchronised
 *   T length 0 0                  data.mdb was given that length
 * The process itself adds A records: what it has acknowledged. One append each, so they are never mixed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int journal = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MAINSTAY_TEST_JOURNAL");
    if (path) journal = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static void note(char what, uint64_t a, uint64_t b, uint64_t c, const struct iovec *bytes, int count) {
    struct iovec all[80];
    uint64_t numbers[3] = {a, b, c};
    all[0] = (struct iovec){&what, 1};
    all[1] = (struct iovec){numbers, sizeof numbers};
    if (count > 78) abort();
    for (int i = 0; i < count; i++) all[2 + i] = bytes[i];
    ssize_t wanted = 25;
    for (int i = 0; i < count; i++) wanted += bytes[i].iov_len;
    if (syscall(SYS_writev, journal, all, 2 + count) != wanted) abort();
}

/* What a descriptor is: 'd' the data file, 'y' the directory, 0 anything else. */
static int kind(int fd) {
    char link[64], path[4096];
    const char *dir = getenv("MAINSTAY_TEST_STORE");
    if (journal < 0 || !dir) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(dir);
    if (strncmp(path, dir, prefix)) return 0;
    if (!path[prefix]) return 'y';
    return strcmp(path + prefix, "/data.mdb") ? 0 : 'd';
}

static ssize_t written(int fd, const struct iovec *bytes, int count, off_t at, ssize_t (*go)(int, const struct iovec *, int, off_t)) {
    if (kind(fd) != 'd') return go(fd, bytes, count, at);
    uint64_t length = 0;
    for (int i = 0; i < count; i++) length += bytes[i].iov_len;
    pthread_mutex_lock(&turn);
    note('W', at, length, !!(fcntl(fd, F_GETFL) & O_DSYNC), bytes, count);
    ssize_t result = go(fd, bytes, count, at);
    /* A short write would have to be cut in the journal; a test's disk has room. */
    if (result != (ssize_t)length) abort();
    note('E', 0, 0, 0, 0, 0);
    pthread_mutex_unlock(&turn);
    return result;
}

static ssize_t real_writev(int fd, const struct iovec *bytes, int count, off_t at) {
    static ssize_t (*next)(int, const struct iovec *, int, off_t);
    if (!next) next = dlsym(RTLD_NEXT, "pwritev");
    return next(fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    struct iovec one = {(void *)bytes, length};
    return written(fd, &one, 1, at, real_writev);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return pwrite(fd, bytes, length, at); }
ssize_t pwritev(int fd, const struct iovec *bytes, int count, off_t at) { return written(fd, bytes, count, at, real_writev); }
ssize_t pwritev64(int fd, const struct iovec *bytes, int count, off_t at) { return pwritev(fd, bytes, count, at); }

/* LMDB seeks, then writes many pages by one call. */
static ssize_t next_writev(int fd, const struct iovec *bytes, int count, off_t at) {
    (void)at;
    return syscall(SYS_writev, fd, bytes, count);
}
ssize_t writev(int fd, const struct iovec *bytes, int count) {
    return written(fd, bytes, count, lseek(fd, 0, SEEK_CUR), next_writev);
}

/* Plain writes to the data file are not what LMDB does: the journal would not know where they went. */
ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    if (length && kind(fd) == 'd') abort();
    return next(fd, bytes, length);
}

static int synced(int fd, const char *name) {
    int (*next)(int) = dlsym(RTLD_NEXT, name);
    int what = kind(fd);
    if (!what) return next(fd);
    pthread_mutex_lock(&turn);
    int result = next(fd);
    if (!result) note(what == 'd' ? 'S' : 'D', 0, 0, 0, 0, 0);
    pthread_mutex_unlock(&turn);
    return result;
}
int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

int ftruncate(int fd, off_t length) {
    static int (*next)(int, off_t);
    if (!next) next = dlsym(RTLD_NEXT, "ftruncate");
    int what = kind(fd), result = next(fd, length);
    if (!result && what == 'd') note('T', length, 0, 0, 0, 0);
    return result;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

int rename(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = dlsym(RTLD_NEXT, "rename");
    int result = next(from, to);
    const char *dir = getenv("MAINSTAY_TEST_STORE");
    size_t prefix = dir ? strlen(dir) : 0;
    if (!result && journal >= 0 && dir && !strncmp(to, dir, prefix) && !strcmp(to + prefix, "/identity")) note('R', 0, 0, 0, 0, 0);
    return result;
}

/* The data file must not be written through a mapping: no journal would see that. */
void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    static void *(*next)(void *, size_t, int, int, int, off_t);
    if (!next) next = dlsym(RTLD_NEXT, "mmap");
    if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED) && kind(fd) == 'd') abort();
    return next(at, length, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset) { return mmap(at, length, protection, flags, fd, offset); }
