// Eight threads that do, until standard input ends, what a move of xv's state could disturb: generated code, signals, system calls that
// sleep, time out, are interrupted and fail, deep recursion, floating point, descriptors, children. Each step is checked.
#include "code.h"
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>

static atomic_int ended;

// Functions that are written, called, written again in place or by another mapping of the same memory.
static long generated(void)
{
	static __thread unsigned char *p;
	static __thread int n;
	if (!p)
		p = map(8192, PROT_READ | PROT_WRITE | PROT_EXEC);
	unsigned char *f = p + 64 * (n++ % 100);
	int v = n * 7;
	f[0] = 0xb8; // mov eax,v
	memcpy(f + 1, &v, 4);
	memcpy(f + 5, "\x01\xf8\xc3", 3); // add eax,edi ; ret
	CHECK(((fn)f)(5) == v + 5);
	if (n % 64 == 0) {
		CHECK(mprotect(p, 8192, PROT_READ | PROT_EXEC) == 0);
		CHECK(((fn)f)(6) == v + 6);
		CHECK(mprotect(p, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	}
	return n;
}

static __thread atomic_long hits;
static __thread volatile double kept;

static void count(int sig, siginfo_t *si, void *uc)
{
	(void)uc;
	CHECK(sig == si->si_signo);
	hits += si->si_code == SI_QUEUE ? si->si_value.sival_int : 1;
	kept += 0.5;
}

static long signals(void)
{
	long before = hits;
	double f = kept;
	siginfo_t si = {.si_signo = SIGUSR2, .si_code = SI_QUEUE, .si_pid = getpid(), .si_uid = getuid()};
	si.si_value.sival_int = 10;
	CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0);
	CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR2, &si) == 0);
	CHECK(hits == before + 11 && kept == f + 1);
	sigset_t set, old;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, &old) == 0);
	CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0);
	CHECK(hits == before + 11);
	CHECK(sigsuspend(&old) == -1 && errno == EINTR);
	CHECK(hits == before + 12);
	CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
	return hits;
}

static long faults(void)
{
	static __thread unsigned char *p;
	if (!p)
		p = map(4096, PROT_NONE);
	if (sigsetjmp(env, 1) == 0) {
		*(volatile unsigned char *)(p + 5) = 1;
		CHECK(!"no fault");
	}
	CHECK(seen.si_signo == SIGSEGV && seen.si_addr == p + 5);
	if (sigsetjmp(env, 1) == 0)
		__asm__ volatile("ud2");
	CHECK(seen.si_signo == SIGILL);
	return 1;
}

static long long nanos(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// System calls with a time limit last as long as they should, and don't end early.
static long sleeps(void)
{
	static __thread int ep;
	if (!ep)
		ep = epoll_create1(0);
	static __thread int i;
	const int ms = 3;
	struct timespec t = {0, ms * 1000000};
	struct epoll_event e;
	sigset_t none;
	sigemptyset(&none);
	sigaddset(&none, SIGRTMIN + 3);
	long long from = nanos();
	switch (i++ % 6) {
	case 0:
		CHECK(nanosleep(&t, NULL) == 0);
		break;
	case 1:
		CHECK(poll(NULL, 0, ms) == 0);
		break;
	case 2:
		CHECK(epoll_wait(ep, &e, 1, ms) == 0);
		break;
	case 3:
		CHECK(sigtimedwait(&none, NULL, &t) == -1 && errno == EAGAIN);
		break;
	case 4:
		CHECK(ppoll(NULL, 0, &t, &none) == 0);
		break;
	case 5:
		CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL) == 0);
	}
	CHECK(nanos() - from >= ms * 1000000LL);
	return i;
}

// Two threads pass numbers through pipes.
static int there[2], back[2];

static long asks(void)
{
	static long n;
	long v = ++n, r = 0;
	struct iovec iov[2] = {{&v, 4}, {(char *)&v + 4, 4}};
	CHECK(writev(there[1], iov, 2) == 8);
	CHECK(read(back[0], &r, 8) == 8 && r == v * 3);
	return n;
}

static long answers(void)
{
	static long n;
	long v;
	ssize_t got = read(there[0], &v, 8);
	if (got == 0)
		return -1; // the end
	CHECK(got == 8 && v == ++n);
	v *= 3;
	CHECK(write(back[1], &v, 8) == 8);
	return n;
}

static int depth(int n) { return n < 2 ? n : depth(n - 1) + depth(n - 2); }

static long computes(void)
{
	volatile double x = 1;
	for (int i = 1; i < 200; i++)
		x = x * 1.0000001 + 1.0 / i;
	static __thread double first;
	if (!first)
		first = x;
	CHECK(x == first);
	CHECK(depth(15) == 610);
	char a[512], b[512];
	memset(a, 0x5a, sizeof a);
	memcpy(b, a, sizeof b);
	CHECK(memcmp(a, b, sizeof a) == 0);
	return 1;
}

static long children(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && close(fd) == 0);
	pid_t pid = fork();
	if (pid == 0)
		_exit(depth(10) == 55 ? 7 : 8);
	int status;
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	return 1;
}

static const struct work {
	const char *name;
	long (*step)(void);
} works[] = {{"generated", generated}, {"signals", signals}, {"faults", faults}, {"sleeps", sleeps},
	     {"asks", asks}, {"answers", answers}, {"computes", computes}, {"children", children}};

enum { N = sizeof works / sizeof *works };

static void *run(void *arg)
{
	const struct work *w = arg;
	prctl(PR_SET_NAME, w->name);
	long done;
	do
		done = w->step();
	while (w->step == answers ? done > 0 : !ended);
	if (w->step == asks)
		close(there[1]);
	CHECK(done != 0);
	return NULL;
}

int main(void)
{
	struct sigaction sa = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	sa.sa_sigaction = on;
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	CHECK(pipe(there) == 0 && pipe(back) == 0);
	pthread_t t[N];
	for (int i = 0; i < N; i++)
		CHECK(pthread_create(&t[i], NULL, run, (void *)&works[i]) == 0);
	puts("ready");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) == 1)
		;
	ended = 1;
	for (int i = 0; i < N; i++) {
		CHECK(pthread_join(t[i], NULL) == 0);
		printf("%s\n", works[i].name);
	}
	DONE();
}
