// Children that are killed at any moment of their making: during the clone, the execve and the start of the program.
#include "guest.h"
#include <spawn.h>

enum { children = 150, longest = 12000000 }; // nanoseconds that a child may live

int main(int argc, char **argv)
{
	char *args[] = {"child", "x", NULL}, *env[] = {NULL};
	uint64_t state = 1;

	if (argc > 1)
		return 7;
	for (int i = 0; i < children; i++) {
		pid_t pid;
		int status;
		if (i % 3 == 0) {
			CHECK(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, args, env) == 0);
		} else if ((pid = fork()) == 0) {
			if (i % 3 == 1)
				_exit(7);
			execve("/proc/self/exe", args, env);
			_exit(1);
		}
		CHECK(pid > 0);
		struct timespec t = {0, mix(&state) % longest};
		nanosleep(&t, NULL);
		CHECK(kill(pid, SIGKILL) == 0);
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WIFEXITED(status) && WEXITSTATUS(status) == 7);
	}
	// None of that did any harm.
	CHECK(system("exit 3") >> 8 == 3);
	DONE();
}
