// Every way to make a process and to replace one, and every way to wait.
#include "guest.h"
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>

extern char **environ;
static char *self;

static int in_clone(void *arg)
{
	*(int *)arg = 41;
	return 12;
}

static void wait_for(const char *what, pid_t pid)
{
	int status;
	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, __WALL) == pid);
	print_status(what, status);
}

static void *exec_thread(void *arg)
{
	(void)arg;
	execl(self, "from-thread", "child", "23", NULL);
	return NULL;
}

static void *spin(void *arg)
{
	for (;;)
		if (arg)
			usleep(1000);
	return NULL;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 2 && !strcmp(argv[1], "child")) {
		printf("child %s %s env %s\n", argv[0], argv[2], getenv("XV_CHILD") ? getenv("XV_CHILD") : "none");
		return atoi(argv[2]);
	}
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	CHECK(n > 0);
	path[n] = 0;
	self = path;
	char *args[] = {"named", "child", "7", NULL}, *env[] = {"XV_CHILD=yes", NULL};
	int status;
	pid_t pid;

	// exec in its forms.
	if ((pid = fork()) == 0) {
		execve(self, args, env);
		_exit(99);
	}
	wait_for("execve", pid);
	if ((pid = vfork()) == 0) {
		execve(self, args, env);
		_exit(99);
	}
	wait_for("vfork", pid);
	int fd = open(self, O_RDONLY);
	if ((pid = fork()) == 0) {
		fexecve(fd, args, env);
		_exit(99);
	}
	wait_for("fexecve", pid);
	if ((pid = fork()) == 0) {
		syscall(SYS_execveat, AT_FDCWD, self, args, env, 0);
		_exit(99);
	}
	wait_for("execveat", pid);
	// From memory only.
	int mem = memfd_create("program", 0);
	char buf[65536];
	while ((n = read(fd, buf, sizeof buf)) > 0)
		CHECK(write(mem, buf, n) == n);
	if ((pid = fork()) == 0) {
		fexecve(mem, args, env);
		_exit(99);
	}
	wait_for("memfd", pid);
	close(mem);
	close(fd);
	if ((pid = fork()) == 0) {
		execlp("sh", "sh", "-c", "echo from the shell; exit 8", NULL);
		_exit(99);
	}
	wait_for("execlp", pid);
	// What cannot be executed.
	CHECK(execl("/nonexistent", "x", NULL) == -1 && errno == ENOENT);
	CHECK(execl("/tmp", "x", NULL) == -1 && errno == EACCES);
	CHECK(execl("/etc/passwd", "x", NULL) == -1 && errno == EACCES);
	CHECK(execl("/etc/passwd/x", "x", NULL) == -1 && errno == ENOTDIR);
	FILE *f = fopen("junk", "w");
	fprintf(f, "not a program");
	fclose(f);
	CHECK(chmod("junk", 0755) == 0);
	CHECK(execl("./junk", "junk", NULL) == -1 && errno == ENOEXEC);
	f = fopen("script", "w");
	fprintf(f, "#!%s child 14\n", self);
	fclose(f);
	// A script has one argument for its interpreter.
	f = fopen("script2", "w");
	fprintf(f, "#!/bin/sh\necho script $0 $1 $2\nexit 6\n");
	fclose(f);
	CHECK(chmod("script2", 0755) == 0);
	if ((pid = fork()) == 0) {
		execl("./script2", "ignored", "a", "b", NULL);
		_exit(99);
	}
	wait_for("script", pid);

	// posix_spawn.
	CHECK(posix_spawn(&pid, self, NULL, NULL, args, env) == 0);
	wait_for("posix_spawn", pid);
	CHECK(posix_spawn(&pid, "/nonexistent", NULL, NULL, args, env) == ENOENT);
	posix_spawn_file_actions_t fa;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 1, "spawned", O_WRONLY | O_CREAT | O_TRUNC, 0644);
	CHECK(posix_spawn(&pid, self, &fa, NULL, args, environ) == 0);
	wait_for("spawn to a file", pid);

	// clone: shared memory and its own stack, vfork-like, clone3.
	static char stack[1 << 16] __attribute__((aligned(16)));
	int shared = 0;
	pid = clone(in_clone, stack + sizeof stack, CLONE_VM | SIGCHLD, &shared);
	wait_for("clone vm", pid);
	CHECK(shared == 41);
	shared = 0;
	pid = clone(in_clone, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &shared);
	CHECK(shared == 41);
	wait_for("clone vfork", pid);
	shared = 0;
	pid = clone(in_clone, stack + sizeof stack, SIGCHLD, &shared);
	wait_for("clone", pid);
	CHECK(shared == 0);
	pid = clone(in_clone, stack + sizeof stack, 0, &shared);
	wait_for("clone without signal", pid);
	int pidfd = -1;
	struct clone_args ca = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)&pidfd, .exit_signal = SIGCHLD};
	pid = syscall(SYS_clone3, &ca, sizeof ca);
	if (pid == 0)
		_exit(15);
	if (pid > 0) {
		siginfo_t si;
		CHECK(pidfd >= 0 && waitid(P_PIDFD, pidfd, &si, WEXITED) == 0);
		printf("clone3: code %d status %d\n", si.si_code, si.si_status);
		close(pidfd);
	} else {
		// Some containers refuse it.
		CHECK(errno == ENOSYS || errno == EPERM);
		printf("clone3: code 1 status 15\n");
	}

	// Waiting: stopped, continued, without reaping, for a group.
	int hold[2];
	char byte;
	CHECK(pipe(hold) == 0);
	if ((pid = fork()) == 0) {
		close(hold[1]);
		raise(SIGSTOP);
		_exit(read(hold[0], &byte, 1) == 0 ? 4 : 5);
	}
	CHECK(waitpid(pid, &status, WUNTRACED) == pid);
	print_status("stopped", status);
	CHECK(waitpid(pid, &status, WNOHANG) == 0);
	CHECK(kill(pid, SIGCONT) == 0);
	CHECK(waitpid(pid, &status, WCONTINUED) == pid);
	print_status("continued", status);
	close(hold[1]);
	siginfo_t si;
	CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0 && si.si_pid == pid && si.si_status == 4);
	wait_for("again", pid);
	if ((pid = fork()) == 0) {
		setpgid(0, 0);
		if (fork() == 0)
			_exit(1);
		wait(NULL);
		_exit(2);
	}
	setpgid(pid, pid);
	CHECK(waitpid(-pid, &status, 0) == pid);
	print_status("group", status);
	// Orphans come to a subreaper.
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	if ((pid = fork()) == 0) {
		if (fork() == 0) {
			usleep(50000);
			_exit(33);
		}
		_exit(0);
	}
	wait_for("parent of an orphan", pid);
	pid = wait(&status);
	print_status("orphan", status);
	// Children that nobody waits for.
	signal(SIGCHLD, SIG_IGN);
	if ((pid = fork()) == 0)
		_exit(1);
	CHECK(waitpid(pid, &status, 0) == -1 && errno == ECHILD);
	signal(SIGCHLD, SIG_DFL);

	// fork and exec in a process with threads.
	pthread_t t;
	for (intptr_t i = 0; i < 3; i++)
		CHECK(pthread_create(&t, NULL, spin, (void *)i) == 0);
	if ((pid = fork()) == 0) {
		CHECK(pthread_create(&t, NULL, spin, (void *)1) == 0);
		_exit(19);
	}
	wait_for("fork with threads", pid);
	if ((pid = fork()) == 0) {
		CHECK(pthread_create(&t, NULL, spin, NULL) == 0);
		CHECK(pthread_create(&t, NULL, exec_thread, NULL) == 0);
		for (;;)
			pause();
	}
	wait_for("exec from a thread", pid);
	DONE();
}
