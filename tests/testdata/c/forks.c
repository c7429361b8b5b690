// fork, wait, pipes, exec of itself.
#include "guest.h"

static void tree(int depth)
{
	for (int i = 0; i < 2 && depth > 0; i++) {
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			tree(depth - 1);
			_exit(depth * 10 + i + failures);
		}
		int status;
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == depth * 10 + i);
	}
}

int main(int argc, char **argv)
{
	int status, fds[2];
	pid_t pid;

	if (argc > 1) {
		printf("child %s\n", argv[1]);
		return atoi(argv[1]);
	}
	for (int code = 0; code < 3; code++) {
		if ((pid = fork()) == 0)
			_exit(code * 7);
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status("fork", status);
	}
	tree(4);

	CHECK(pipe(fds) == 0);
	if ((pid = fork()) == 0) {
		CHECK(dup2(fds[1], 1) == 1);
		close(fds[0]);
		close(fds[1]);
		execl("/proc/self/exe", argv[0], "42", NULL);
		_exit(99);
	}
	close(fds[1]);
	char buf[100];
	ssize_t n = read(fds[0], buf, sizeof buf);
	printf("read %zd: %.*s", n, (int)n, buf);
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("exec", status);

	if ((pid = fork()) == 0)
		raise(SIGTERM);
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("raise", status);

	if ((pid = vfork()) == 0)
		_exit(5);
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("vfork", status);
	CHECK(wait(&status) == -1 && errno == ECHILD);
	DONE();
}
