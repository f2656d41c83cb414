/* A clock that a test sets, for a server that loads this before its libraries (LD_PRELOAD).

   The file that TEST_CLOCK names has the difference to the machine's clock in nanoseconds, as a
   64-bit integer. The file is mapped into memory, so it can be read in signal handlers, where
   PostgreSQL reads the time too. Other clocks, such as CLOCK_MONOTONIC, are not changed.

   It uses no header and no library, so gcc alone can compile it, with -nostdlib. */

struct timespec { long tv_sec, tv_nsec; };
struct timeval { long tv_sec, tv_usec; };

extern void *dlsym(void *, const char *);
extern char *getenv(const char *);
extern int open(const char *, int, ...);
extern int close(int);
extern void *mmap(void *, unsigned long, int, int, int, long);

#define NEXT_LIBRARY ((void *)-1)
#define REALTIME 0
#define REALTIME_COARSE 5
#define SECOND 1000000000L

static int (*real)(int, struct timespec *);
static const volatile long *ahead;

__attribute__((constructor)) static void prepare(void)
{
    int file = open(getenv("TEST_CLOCK"), 0);
    real = (int (*)(int, struct timespec *))dlsym(NEXT_LIBRARY, "clock_gettime");
    ahead = mmap(0, sizeof(long), 1 /* read */, 1 /* shared */, file, 0);
    close(file);
}

int clock_gettime(int which, struct timespec *now)
{
    int code = real(which, now);
    if (code == 0 && (which == REALTIME || which == REALTIME_COARSE)) {
        long nanoseconds = now->tv_sec * SECOND + now->tv_nsec + *ahead;
        now->tv_sec = nanoseconds / SECOND;
        now->tv_nsec = nanoseconds % SECOND;
    }
    return code;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec precise;
    (void)zone;
    clock_gettime(REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

long time(long *now)
{
    struct timespec precise;
    clock_gettime(REALTIME, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
