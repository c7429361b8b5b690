// Processes whose parent is killed at any moment, also while it makes them:
// they live on. Each holds a pipe open until it has done its work.
#include "guest.h"
#include <sched.h>
#include <sys/prctl.h>

static char stack[1 << 14] __attribute__((aligned(16)));
static int out;

static void work(void)
{
	// Something that needs the supervisor.
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (write(out, p == MAP_FAILED ? "-" : "+", 1) != 1)
		_exit(1);
	_exit(0);
}

static int in_clone(void *arg)
{
	(void)arg;
	work();
	return 0;
}

int main(void)
{
	int fds[2], status;
	uint64_t seed = 7;
	long lived = 0, bad = 0;

	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	for (int round = 0; round < 24; round++) {
		CHECK(pipe(fds) == 0);
		pid_t pid = fork();
		if (pid == 0) {
			out = fds[1];
			for (;;) {
				if (round % 4 == 3)
					clone(in_clone, stack + sizeof stack, SIGCHLD | (round % 8 == 3 ? CLONE_PARENT : 0), NULL);
				else if (round % 4 == 2) {
					if (fork() == 0) {
						if (fork() == 0)
							work();
						raise(SIGKILL);
					}
				} else if (fork() == 0)
					work();
			}
		}
		close(fds[1]);
		usleep(mix(&seed) % 8000);
		CHECK(kill(pid, SIGKILL) == 0);
		char c;
		while (read(fds[0], &c, 1) == 1) {
			lived++;
			bad += c != '+';
		}
		close(fds[0]);
		while (wait(&status) > 0)
			;
	}
	CHECK(bad == 0);
	printf("some lived: %d\n", lived > 0);
	DONE();
}
