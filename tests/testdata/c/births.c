// Processes that are born while the other threads of the parent do what their births must not disturb: get and lose code, so that parent
// and child can no longer share translations, and sleep in system calls, which signals that nobody handles don't end.
#include "code.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>

static atomic_int ended;

static void *codes(void *arg)
{
	for (int i = 0; !ended; i++) {
		unsigned char *p = map(4096, PROT_READ | PROT_WRITE);
		p[0] = 0xb8; // mov eax,i ; ret
		memcpy(p + 1, &i, 4);
		p[5] = 0xc3;
		CHECK(mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0);
		CHECK(call(p, 0) == i);
		CHECK(munmap(p, 4096) == 0);
	}
	return arg;
}

static void *sleeps(void *arg)
{
	int ep = epoll_create1(0);
	struct epoll_event e;
	struct timespec t = {0, 5000000};
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	while (!ended) {
		CHECK(epoll_wait(ep, &e, 1, 5) == 0);
		CHECK(sigtimedwait(&set, NULL, &t) == -1 && errno == EAGAIN);
	}
	return arg;
}

static long work(int n) { return n < 2 ? n : work(n - 1) + work(n - 2); }

int main(void)
{
	pthread_t t[2];
	CHECK(pthread_create(&t[0], NULL, codes, NULL) == 0);
	CHECK(pthread_create(&t[1], NULL, sleeps, NULL) == 0);
	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			char text[32]; // code that the parent has not run
			snprintf(text, sizeof text, "%ld", work(12));
			_exit(strcmp(text, "144") == 0 ? 7 : 8);
		}
		int status;
		CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	}
	ended = 1;
	CHECK(pthread_join(t[0], NULL) == 0 && pthread_join(t[1], NULL) == 0);
	DONE();
}
