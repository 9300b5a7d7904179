/* Ends its process at the n-th call that changes the disk: LD_PRELOADed into a daemon by shim.py.

   A step is a call below one of the folders STEPS_ROOTS (colon-separated) that makes, changes, renames, removes or
   syncs something there, a send on a TCP connection (a reply to a raylet), or a read of a pipe (a tool is running). Before step STEPS_AT the process
   kills itself with SIGKILL; with STEPS_POWER the file system below the first root goes first, with all that was not
   written to the device (FS_IOC_SHUTDOWN without a flush of the log: ext4, xfs). 0 counts only. Each step is a
   line of STEPS_TRACE: its number, the call, the path. STEPS_BOOT_ID is read in place of the kernel's boot id.

   Only the process that loaded this counts, not what it forks or runs: the variables are taken out of its
   environment. Stores to mapped memory are no calls and are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define FS_IOC_SHUTDOWN _IOR('X', 125, unsigned)
#define NO_LOG_FLUSH 2u
#define ROOTS 4

static const char *roots[ROOTS], *boot_id;
static atomic_long steps;
static long at;
static int power, trace = -1;
static pid_t me;

static const char *taken(const char *name) {
  const char *value = getenv(name);
  value = value ? strdup(value) : NULL;
  unsetenv(name);
  return value;
}

__attribute__((constructor)) static void load(void) {
  const char *all = taken("STEPS_ROOTS"), *number = taken("STEPS_AT"), *file = taken("STEPS_TRACE");
  power = taken("STEPS_POWER") != NULL;
  boot_id = taken("STEPS_BOOT_ID");
  unsetenv("LD_PRELOAD");
  if (!all) return;
  char *rest = strdup(all);
  for (int i = 0; i < ROOTS && (roots[i] = strsep(&rest, ":")); i++) {}
  at = number ? atol(number) : 0;
  if (file) trace = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  me = getpid();
}

static int below(const char *path) {
  for (int i = 0; i < ROOTS && roots[i]; i++) {
    size_t length = strlen(roots[i]);
    if (!strncmp(path, roots[i], length) && (path[length] == '/' || !path[length])) return 1;
  }
  return 0;
}

static void die(void) {
  if (power) {
    unsigned how = NO_LOG_FLUSH;
    int folder = syscall(SYS_openat, AT_FDCWD, roots[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    char *slash = strrchr(roots[0], '/');
    if (folder < 0 && errno == ENOENT && slash) {  // the first step of all makes it
      *slash = 0;
      folder = syscall(SYS_openat, AT_FDCWD, roots[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    }
    if (folder < 0 || ioctl(folder, FS_IOC_SHUTDOWN, &how)) dprintf(trace, "0 no-power-loss %s\n", strerror(errno));
  }
  kill(me, SIGKILL);
  for (;;) pause();
}

static void count(const char *what, const char *path) {
  char line[PATH_MAX + 64];
  long step = atomic_fetch_add(&steps, 1) + 1;
  int length = snprintf(line, sizeof line, "%ld %s %s\n", step, what, path);
  if (trace >= 0) syscall(SYS_write, trace, line, length);
  if (step == at) die();
  if (at && step > at) for (;;) pause(); /* another thread is at it: nothing passes any more */
}

static int link_of(int fd, char *into, size_t size) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, into, size - 1);
  if (length < 0) return 0;
  into[length] = 0;
  return 1;
}

/* A call on a path, relative to a folder's descriptor. */
static void path_step(const char *what, int folder, const char *path) {
  char full[2 * PATH_MAX];
  int before = errno;
  if (getpid() != me || !path) return;
  if (path[0] == '/') {
    if (below(path)) count(what, path);
  } else if (folder == AT_FDCWD ? getcwd(full, PATH_MAX) != NULL : link_of(folder, full, PATH_MAX)) {
    size_t length = strlen(full);
    snprintf(full + length, PATH_MAX, "/%s", path);
    if (below(full)) count(what, full);
  }
  errno = before;
}

/* A call on a descriptor: of a file below the roots, or of a TCP connection. */
static void fd_step(const char *what, int fd) {
  char full[PATH_MAX];
  int before = errno, family = 0;
  socklen_t length = sizeof family;
  if (getpid() != me || !link_of(fd, full, sizeof full)) return;
  if (full[0] == '/') {
    if (below(full)) count(what, full);
  } else if (!strncmp(full, "socket:", 7) && !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) &&
             family == AF_INET) {
    count("reply", "tcp");
  }
  errno = before;
}

/* A read: only of a pipe is it a step. */
static void read_step(int fd) {
  char full[PATH_MAX];
  int before = errno;
  if (getpid() == me && link_of(fd, full, sizeof full) && !strncmp(full, "pipe:", 5)) count("read", "pipe");
  errno = before;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ON_PATH(result, name, folder, path, parameters, ...) \
  result name parameters { path_step(#name, folder, path); return REAL(name)(__VA_ARGS__); }
#define ON_FD(result, name, fd, parameters, ...) \
  result name parameters { fd_step(#name, fd); return REAL(name)(__VA_ARGS__); }

#define OPEN(name, folder, first, ...)                                       \
  int name(first const char *path, int flags, ...) {                         \
    mode_t mode = 0;                                                         \
    if (flags & (O_CREAT | O_TMPFILE)) {                                     \
      va_list rest;                                                          \
      va_start(rest, flags);                                                 \
      mode = va_arg(rest, mode_t);                                           \
      va_end(rest);                                                          \
    }                                                                        \
    if (boot_id && !strcmp(path, BOOT_ID)) path = boot_id;                   \
    if (flags & (O_CREAT | O_TRUNC)) path_step(#name, folder, path);         \
    return REAL(name)(__VA_ARGS__ path, flags, mode);                        \
  }
#define COMMA ,
OPEN(open, AT_FDCWD, , )
OPEN(open64, AT_FDCWD, , )
OPEN(openat, folder, int folder COMMA, folder COMMA)
OPEN(openat64, folder, int folder COMMA, folder COMMA)

ON_PATH(int, rename, AT_FDCWD, to, (const char *from, const char *to), from, to)
ON_PATH(int, renameat, b, to, (int a, const char *from, int b, const char *to), a, from, b, to)
ON_PATH(int, renameat2, b, to, (int a, const char *from, int b, const char *to, unsigned f), a, from, b, to, f)
ON_PATH(int, link, AT_FDCWD, to, (const char *from, const char *to), from, to)
ON_PATH(int, linkat, b, to, (int a, const char *from, int b, const char *to, int f), a, from, b, to, f)
ON_PATH(int, symlink, AT_FDCWD, to, (const char *from, const char *to), from, to)
ON_PATH(int, symlinkat, a, to, (const char *from, int a, const char *to), from, a, to)
ON_PATH(int, unlink, AT_FDCWD, path, (const char *path), path)
ON_PATH(int, unlinkat, a, path, (int a, const char *path, int f), a, path, f)
ON_PATH(int, rmdir, AT_FDCWD, path, (const char *path), path)
ON_PATH(int, mkdir, AT_FDCWD, path, (const char *path, mode_t m), path, m)
ON_PATH(int, mkdirat, a, path, (int a, const char *path, mode_t m), a, path, m)
ON_PATH(int, mkfifo, AT_FDCWD, path, (const char *path, mode_t m), path, m)
ON_PATH(int, chmod, AT_FDCWD, path, (const char *path, mode_t m), path, m)
ON_PATH(int, fchmodat, a, path, (int a, const char *path, mode_t m, int f), a, path, m, f)
ON_PATH(int, chown, AT_FDCWD, path, (const char *path, uid_t u, gid_t g), path, u, g)
ON_PATH(int, lchown, AT_FDCWD, path, (const char *path, uid_t u, gid_t g), path, u, g)
ON_PATH(int, fchownat, a, path, (int a, const char *path, uid_t u, gid_t g, int f), a, path, u, g, f)
ON_PATH(int, utimensat, a, path, (int a, const char *path, const struct timespec t[2], int f), a, path, t, f)
ON_PATH(int, truncate, AT_FDCWD, path, (const char *path, off_t n), path, n)
ON_PATH(int, truncate64, AT_FDCWD, path, (const char *path, off64_t n), path, n)
ON_FD(int, ftruncate, fd, (int fd, off_t n), fd, n)
ON_FD(int, ftruncate64, fd, (int fd, off64_t n), fd, n)
ON_FD(int, fallocate, fd, (int fd, int m, off_t o, off_t n), fd, m, o, n)
ON_FD(int, posix_fallocate, fd, (int fd, off_t o, off_t n), fd, o, n)
ON_FD(int, posix_fallocate64, fd, (int fd, off64_t o, off64_t n), fd, o, n)
ON_FD(int, fchmod, fd, (int fd, mode_t m), fd, m)
ON_FD(int, fchown, fd, (int fd, uid_t u, gid_t g), fd, u, g)
ON_FD(int, fsync, fd, (int fd), fd)
ON_FD(int, fdatasync, fd, (int fd), fd)
ON_FD(int, syncfs, fd, (int fd), fd)
ON_FD(ssize_t, write, fd, (int fd, const void *b, size_t n), fd, b, n)
ON_FD(ssize_t, writev, fd, (int fd, const struct iovec *v, int n), fd, v, n)
ON_FD(ssize_t, pwrite, fd, (int fd, const void *b, size_t n, off_t o), fd, b, n, o)
ON_FD(ssize_t, pwrite64, fd, (int fd, const void *b, size_t n, off64_t o), fd, b, n, o)
ON_FD(ssize_t, sendmsg, fd, (int fd, const struct msghdr *m, int f), fd, m, f)
ON_FD(ssize_t, send, fd, (int fd, const void *b, size_t n, int f), fd, b, n, f)
ON_FD(ssize_t, sendfile, out, (int out, int in, off_t *o, size_t n), out, in, o, n)
ON_FD(ssize_t, sendfile64, out, (int out, int in, off64_t *o, size_t n), out, in, o, n)
ON_FD(ssize_t, copy_file_range, b, (int a, off64_t *x, int b, off64_t *y, size_t n, unsigned f), a, x, b, y, n, f)

ssize_t read(int fd, void *b, size_t n) {
  read_step(fd);
  return REAL(read)(fd, b, n);
}
