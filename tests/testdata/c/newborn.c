// Signals that instructions raise, sent by another thread while threads and processes are being made: those can't be
// blocked as others, and a new thread has no signal stack at first.
#include "guest.h"
#include <pthread.h>

enum { rounds = 300 };

static volatile int stop;
static volatile unsigned long seen;

static void handler(int sig)
{
	(void)sig;
	__atomic_fetch_add(&seen, 1, __ATOMIC_RELAXED);
}

static void *sender(void *arg)
{
	static const int signals[] = {SIGILL, SIGFPE, SIGBUS, SIGSEGV};
	(void)arg;
	for (unsigned i = 0; !stop; i++) {
		CHECK(kill(getpid(), signals[i % 4]) == 0);
		usleep(20);
	}
	return NULL;
}

static void *nothing(void *arg) { return arg; }

int main(void)
{
	pthread_t s, t;
	int status;

	for (int i = 0; i < 4; i++)
		CHECK(signal((int[]){SIGILL, SIGFPE, SIGBUS, SIGSEGV}[i], handler) != SIG_ERR);
	CHECK(pthread_create(&s, NULL, sender, NULL) == 0);
	for (int i = 0; i < rounds; i++) {
		CHECK(pthread_create(&t, NULL, nothing, &t) == 0);
		CHECK(pthread_join(t, NULL) == 0);
		if (i % 8 == 0) {
			pid_t pid = fork();
			if (pid == 0)
				_exit(3);
			CHECK(pid > 0);
			while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
				;
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
		}
	}
	stop = 1;
	pthread_join(s, NULL);
	CHECK(seen > 0);
	DONE();
}
