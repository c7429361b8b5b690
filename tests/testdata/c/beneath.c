// A handler on the alternate stack walks the stack that it has interrupted, with a library that is loaded for that.
#include "guest.h"
#include <dlfcn.h>

extern char __executable_start[], etext[];
static volatile int seen;

static void on(int sig)
{
	void *frames[64];
	int (*walk)(void **, int) = (int (*)(void **, int))dlsym(RTLD_DEFAULT, "backtrace");
	int n = walk ? walk(frames, 64) : 0;

	(void)sig;
	for (int i = 0; i < n; i++)
		seen += (char *)frames[i] >= __executable_start && (char *)frames[i] < etext;
}

static __attribute__((noinline)) int deep(int depth)
{
	int below = depth > 0 ? deep(depth - 1) : raise(SIGUSR1);
	__asm__ volatile("" : "+r"(below));
	return below + 1;
}

int main(void)
{
	static char stack[1 << 18];
	struct sigaction sa = {.sa_handler = on, .sa_flags = SA_ONSTACK};
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};

	CHECK(sigaltstack(&ss, NULL) == 0);
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	CHECK(deep(9) == 10);
	printf("more than the handler: %d\n", seen > 10);
	DONE();
}
