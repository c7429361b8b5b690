// Unwinding: through a signal frame, by backtrace, through C callbacks, out of
// a thread that is cancelled.
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <unistd.h>
#include <unwind.h>

static int destroyed;
struct Guard { ~Guard() { destroyed++; } };

static volatile int *volatile nowhere;

static void thrower(int sig) { throw std::runtime_error(sig == SIGSEGV ? "segv" : "fpe"); }

__attribute__((noinline)) static int fault(int kind)
{
	Guard g;
	volatile int zero = 0;
	return kind ? *nowhere : 100 / zero;
}

static int compare(const void *a, const void *b)
{
	Guard g;
	if (*(const int *)a == 7 || *(const int *)b == 7)
		throw 7;
	return *(const int *)a - *(const int *)b;
}

static _Unwind_Reason_Code frame(struct _Unwind_Context *ctx, void *arg)
{
	if (_Unwind_GetIP(ctx) != 0)
		++*(int *)arg;
	return _URC_NO_REASON;
}

__attribute__((noinline)) static int depth(int n)
{
	if (n > 0) {
		volatile int d = depth(n - 1);
		return d;
	}
	int frames = 0;
	_Unwind_Backtrace(frame, &frames);
	return frames;
}

static int in_handler;
static void count_frames(int)
{
	void *pcs[100];
	in_handler = backtrace(pcs, 100);
}

__attribute__((noinline)) static void raise_deep(int n)
{
	if (n > 0)
		raise_deep(n - 1);
	else
		raise(SIGUSR1);
	asm volatile("");
}

static void *cancelled(void *)
{
	Guard g;
	for (;;)
		sleep(100);
}

int main()
{
	setvbuf(stdout, nullptr, _IOLBF, 0);
	struct sigaction sa = {};
	sa.sa_handler = thrower;
	sa.sa_flags = SA_NODEFER;
	sigaction(SIGSEGV, &sa, nullptr);
	sigaction(SIGFPE, &sa, nullptr);
	for (int i = 0; i < 20; i++) {
		try {
			fault(i % 2);
			printf("not reached\n");
		} catch (std::runtime_error &e) {
			if (i < 2)
				printf("caught %s\n", e.what());
		}
	}
	printf("destroyed %d\n", destroyed);
	int v[] = {3, 1, 7, 5, 2};
	try {
		qsort(v, 5, sizeof v[0], compare);
	} catch (int x) {
		printf("through qsort: %d\n", x);
	}
	int base = depth(0);
	printf("frames +%d\n", depth(30) - base);
	signal(SIGUSR1, count_frames);
	raise_deep(0);
	base = in_handler;
	raise_deep(20);
	printf("frames through a signal +%d\n", in_handler - base);
	int before = destroyed;
	pthread_t t;
	pthread_create(&t, nullptr, cancelled, nullptr);
	usleep(20000);
	pthread_cancel(t);
	pthread_join(t, nullptr);
	printf("cancelled %d\n", destroyed - before);
	// An exception that nobody catches.
	throw std::logic_error("the end");
}
