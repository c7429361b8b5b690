// Signal handlers in signal handlers, ten deep, each on the frame of the one before or on an alternate stack, some of them asleep
// for a moment: all return, by an unwound stack or one after the other, and every register that they must keep is kept.
#include "guest.h"
#include <setjmp.h>

enum { DEPTH = 10, ROUNDS = 200 };

static volatile int depth, handled;
static sigjmp_buf out;
static int leave; // the deepest handler leaves them all

static void on(int sig)
{
	int at = ++depth;

	handled++;
	if (depth < DEPTH) {
		raise(at % 3 == 2 ? SIGUSR2 : SIGUSR1);
	} else if (leave) {
		siglongjmp(out, 1);
	} else if (handled % (DEPTH * 4) == 0) {
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	CHECK(depth == at && sig != 0);
	depth--;
}

int main(void)
{
	static char stack[1 << 18];
	struct sigaction sa = {.sa_handler = on, .sa_flags = SA_NODEFER};
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
	volatile uint64_t sum = 0;

	CHECK(sigaltstack(&ss, NULL) == 0);
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	sa.sa_flags |= SA_ONSTACK;
	CHECK(sigaction(SIGUSR2, &sa, NULL) == 0);
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t state = i;
		leave = i % 50 == 49;
		depth = 0;
		if (sigsetjmp(out, 1) == 0)
			raise(SIGUSR1);
		CHECK(depth == (leave ? DEPTH : 0));
		sum += mix(&state);
	}
	printf("%d handled, sum %lx\n", handled, (unsigned long)sum);
	DONE();
}
