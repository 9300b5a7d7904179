/* Moves the wall clock of the process that is started with it (LD_PRELOAD, see soak_place.py).

   SOAK_CLOCK names a file of eight bytes: seconds, as a signed number of the machine's own order, that are added to
   whatever says what time it is. Who changes the file moves the clock at that instant. Monotonic clocks, the times of
   files and deadlines in the kernel stay true, as they do when a machine's clock is set. What the process starts
   has the true time: both variables are taken out of its environment. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *moved;

__attribute__((constructor)) static void load(void) {
  const char *path = getenv("SOAK_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *seen = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *moved, PROT_READ, MAP_SHARED, file, 0);
  if (seen == MAP_FAILED) {
    perror("SOAK_CLOCK cannot be read");
    _exit(127);
  }
  close(file);
  moved = seen;
  unsetenv("SOAK_CLOCK");
  unsetenv("LD_PRELOAD");
}

static int64_t offset(clockid_t clock) {
  int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  return wall && moved ? *moved : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed)
    now->tv_sec += offset(clock);
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int failed = (int)syscall(SYS_gettimeofday, now, zone);
  if (!failed)
    now->tv_sec += offset(CLOCK_REALTIME);
  return failed;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result)
    *result = now.tv_sec;
  return now.tv_sec;
}
