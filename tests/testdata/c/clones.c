// Processes that share with their parent what the flags of clone say, in
// every combination that means something, and namespaces where permitted.
#include "guest.h"
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>

static char stack[1 << 17] __attribute__((aligned(16)));
static volatile int shared;
static int fds[2];

static void on(int sig) { shared = sig; }

static int run(const char *what, int (*f)(void *), int flags)
{
	int status;
	pid_t pid = clone(f, stack + sizeof stack, flags | SIGCHLD, NULL);
	CHECK(pid > 0);
	if (pid < 0)
		return -1;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status(what, status);
	return status;
}

static int change_all(void *arg)
{
	(void)arg;
	shared++;
	CHECK(chdir("/usr") == 0);
	umask(0123);
	close(fds[0]);
	signal(SIGUSR1, SIG_IGN);
	return 11;
}

static void show(const char *what)
{
	char cwd[PATH_MAX];
	mode_t m = umask(022);
	CHECK(getcwd(cwd, sizeof cwd) != NULL);
	struct sigaction sa;
	CHECK(sigaction(SIGUSR1, NULL, &sa) == 0);
	printf("%s: memory %d, directory %s, mask %o, descriptor %s, action %s\n", what, shared, !strcmp(cwd, "/usr") ? "changed" : "kept",
	       m, fcntl(fds[0], F_GETFD) < 0 ? "closed" : "open", sa.sa_handler == SIG_IGN ? "ignored" : sa.sa_handler == on ? "caught" : "default");
}

static void share(const char *what, int flags, const char *home)
{
	shared = 0;
	CHECK(pipe(fds) == 0);
	umask(022);
	signal(SIGUSR1, on);
	run(what, change_all, flags);
	show(what);
	close(fds[0]);
	close(fds[1]);
	CHECK(chdir(home) == 0);
	signal(SIGUSR1, SIG_DFL);
}

// A handler that parent and child share is called in both.
static int handled(void *arg)
{
	(void)arg;
	signal(SIGUSR2, on);
	raise(SIGUSR2);
	return shared == SIGUSR2 ? 12 : 1;
}

static int sibling(void *arg)
{
	(void)arg;
	usleep(10000);
	return getppid() == shared ? 13 : 1;
}

static int make_sibling(void *arg)
{
	(void)arg;
	static char inner[1 << 16] __attribute__((aligned(16)));
	return clone(sibling, inner + sizeof inner, CLONE_PARENT | SIGCHLD, NULL) > 0 ? 14 : 1;
}

static int new_host(void *arg)
{
	struct utsname u;
	(void)arg;
	if (sethostname("xv-guest", 8) != 0 || uname(&u) != 0 || strcmp(u.nodename, "xv-guest") != 0)
		return 1;
	// A program and a fork in there.
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		execlp("sh", "sh", "-c", "test `uname -n` = xv-guest", NULL);
		_exit(99);
	}
	return waitpid(pid, &status, 0) == pid && status == 0 ? 15 : 2;
}

static int first_in_pidns(void *arg)
{
	int status;
	(void)arg;
	if (getpid() != 1 || syscall(SYS_gettid) != 1)
		return 1;
	// An orphan comes to the first process.
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			usleep(20000);
			_exit(getpid() == 3 && getppid() == 1 ? 7 : 8);
		}
		_exit(getpid() == 2 ? 5 : 6);
	}
	if (pid != 2 || waitpid(2, &status, 0) != 2 || WEXITSTATUS(status) != 5)
		return 2;
	if (wait(&status) != 3 || WEXITSTATUS(status) != 7)
		return 3;
	pthread_t t;
	if (pthread_create(&t, NULL, (void *(*)(void *))(void *)getpid, NULL) != 0 || pthread_join(t, NULL) != 0)
		return 4;
	return 16;
}

static int new_user(void *arg)
{
	(void)arg;
	return getuid() == 65534 || getuid() == 0 ? 17 : 1;
}

// try runs f with flags, which may be refused for lack of a privilege: the
// parent then says what it would have said.
static void try(const char *what, int (*f)(void *), int flags, int want)
{
	int status;
	pid_t pid = clone(f, stack + sizeof stack, flags | SIGCHLD, NULL);
	if (pid < 0) {
		CHECK(errno == EPERM || errno == ENOSPC || errno == EINVAL);
		printf("%s: exited %d\n", what, want);
		return;
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status(what, status);
}

static long clone3(struct clone_args *a) { return syscall(SYS_clone3, a, sizeof *a); }

static void with_clone3(void)
{
	int status, parent_tid = 0, pidfd = -1;
	static int child_tid;
	struct clone_args a = {.flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID | CLONE_PIDFD,
		.child_tid = (uintptr_t)&child_tid, .parent_tid = (uintptr_t)&parent_tid, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD};
	pid_t pid = clone3(&a);
	if (pid == 0)
		_exit(child_tid == getpid() ? 18 : 1);
	if (pid < 0 && (errno == ENOSYS || errno == EPERM)) {
		printf("clone3: exited 18\nclear: exited 19\n");
		return;
	}
	CHECK(parent_tid == pid && pidfd >= 0 && child_tid == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	close(pidfd);
	print_status("clone3", status);
	// Handlers are reset, what is ignored stays.
	signal(SIGUSR1, on);
	signal(SIGUSR2, SIG_IGN);
	signal(SIGSEGV, on);
	memset(&a, 0, sizeof a);
	a.flags = CLONE_CLEAR_SIGHAND;
	a.exit_signal = SIGCHLD;
	pid = clone3(&a);
	if (pid == 0) {
		struct sigaction sa;
		int ok = sigaction(SIGUSR1, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL && sigaction(SIGUSR2, NULL, &sa) == 0 &&
			sa.sa_handler == SIG_IGN && sigaction(SIGSEGV, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL;
		_exit(ok ? 19 : 1);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("clear", status);
	signal(SIGUSR1, SIG_DFL);
	signal(SIGUSR2, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
	// Another signal than SIGCHLD at the end, and arguments that are wrong.
	a.flags = 0;
	a.exit_signal = SIGUSR1;
	signal(SIGUSR1, on);
	shared = 0;
	pid = clone3(&a);
	if (pid == 0)
		_exit(20);
	while (waitpid(pid, &status, __WCLONE) != pid)
		CHECK(errno == EINTR);
	CHECK(shared == SIGUSR1);
	print_status("other signal", status);
	signal(SIGUSR1, SIG_DFL);
	a.flags = CLONE_THREAD;
	CHECK(clone3(&a) == -1 && errno == EINVAL);
	a.flags = CLONE_SIGHAND;
	CHECK(clone3(&a) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_clone3, &a, 8) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_clone3, NULL, sizeof a) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_clone3, &a, 5000) == -1 && errno == E2BIG);
	CHECK(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0) == -1 && errno == EINVAL);
}

int main(void)
{
	char home[PATH_MAX];
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	CHECK(getcwd(home, sizeof home) != NULL);
	share("nothing", 0, home);
	share("memory", CLONE_VM, home);
	share("files", CLONE_FILES, home);
	share("directory", CLONE_FS, home);
	share("actions", CLONE_VM | CLONE_SIGHAND, home);
	share("all", CLONE_VM | CLONE_SIGHAND | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_IO, home);
	share("vfork", CLONE_VM | CLONE_VFORK, home);

	shared = 0;
	run("handler of the child", handled, CLONE_VM | CLONE_SIGHAND);
	CHECK(shared == SIGUSR2);
	shared = 0;
	raise(SIGUSR2);
	CHECK(shared == SIGUSR2);
	signal(SIGUSR2, SIG_DFL);

	shared = getpid();
	run("maker", make_sibling, 0);
	pid_t pid = wait(&status);
	CHECK(pid > 0);
	print_status("sibling", status);

	with_clone3();
	try("hosts", new_host, CLONE_NEWUTS, 15);
	try("mounts", new_user, CLONE_NEWNS | CLONE_NEWIPC, 17);
	try("processes", first_in_pidns, CLONE_NEWPID, 16);
	try("users", new_user, CLONE_NEWUSER, 17);
	try("user and processes", first_in_pidns, CLONE_NEWUSER | CLONE_NEWPID, 16);
	if ((pid = fork()) == 0) {
		// The namespaces of this process itself.
		if (unshare(CLONE_FS | CLONE_FILES) != 0)
			_exit(1);
		if (unshare(CLONE_NEWPID) != 0)
			_exit(21);
		_exit((pid = fork()) == 0 ? first_in_pidns(NULL) : waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 16 ? 21 : 2);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("unshare", status);
	DONE();
}
