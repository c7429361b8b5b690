// Handlers that are replaced while their signal arrives. A program stores what the old handler was after sigaction returns;
// a signal that came before is the old handler's. In the system call itself the new one may run first, natively too, but
// that is a short time. A busy machine can make it longer, but not each time.
#include "guest.h"
#include <time.h>

enum { SIGNALS = 2000, ROUNDS = 5 };

static volatile sig_atomic_t replaced, early, signals;

static void old_handler(int sig)
{
	(void)sig;
	signals++;
}

static void new_handler(int sig)
{
	(void)sig;
	signals++;
	early += !replaced;
}

static void wait_a_little(void)
{
	for (volatile int i = 0; i < 5000; i++)
		;
}

int main(void)
{
	struct sigaction old = { .sa_handler = old_handler }, new = { .sa_handler = new_handler }, was;
	CHECK(sigaction(SIGALRM, &old, NULL) == 0);
	timer_t timer;
	struct itimerspec often = { { 0, 100000 }, { 0, 100000 } };
	CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
	CHECK(timer_settime(timer, 0, &often, NULL) == 0);
	for (int round = 0; round == 0 || round < ROUNDS && early > SIGNALS / 5; round++) {
		for (signals = early = 0; signals < SIGNALS;) {
			CHECK(sigaction(SIGALRM, &new, &was) == 0);
			replaced = 1;
			CHECK(was.sa_handler == old_handler);
			wait_a_little();
			CHECK(sigaction(SIGALRM, &old, &was) == 0);
			replaced = 0;
			CHECK(was.sa_handler == new_handler);
			wait_a_little();
		}
	}
	if (early > SIGNALS / 5)
		printf("FAIL: the new handler ran %d times before sigaction returned\n", early);
	puts("ok");
	return 0;
}
