// A process that gives its privilege up, with threads: all of them change, and
// it can still fork, execute programs and load libraries.
#include "guest.h"
#include <dlfcn.h>
#include <grp.h>
#include <pthread.h>
#include <sys/prctl.h>

enum { NOBODY = 65534 };

static pthread_barrier_t meet;
static uid_t want;

static void *show_uid(void *arg)
{
	pthread_barrier_wait(&meet);
	pthread_barrier_wait(&meet);
	uid_t u, e, s;
	CHECK(syscall(SYS_getresuid, &u, &e, &s) == 0 && u == want && e == want && s == want);
	return arg;
}

static void wait_for(const char *what, pid_t pid)
{
	int status;
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	print_status(what, status);
}

int main(int argc, char **argv)
{
	pthread_t t[20];
	pid_t pid;

	(void)argv;
	if (argc > 1)
		return getuid() == geteuid() && (getuid() != 0 || argc > 2) ? 8 : 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	int root = getuid() == 0;
	want = root ? NOBODY : getuid();
	CHECK(pthread_barrier_init(&meet, NULL, 21) == 0);
	for (int i = 0; i < 20; i++)
		CHECK(pthread_create(&t[i], NULL, show_uid, NULL) == 0);
	pthread_barrier_wait(&meet);
	if (root)
		CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0);
	CHECK(setuid(want) == 0 && setuid(0) == -1 && errno == EPERM);
	pthread_barrier_wait(&meet);
	for (int i = 0; i < 20; i++)
		CHECK(pthread_join(t[i], NULL) == 0);

	// It was made undumpable, which execve ends.
	CHECK(prctl(PR_GET_DUMPABLE) == (root ? 0 : 1));
	if ((pid = fork()) == 0)
		_exit(9);
	wait_for("fork", pid);
	if ((pid = fork()) == 0) {
		char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memcpy(page, "\xb8\x0a\0\0\0\xc3", 6); // mov $10, %eax; ret
		_exit(((int (*)(void))page)());
	}
	wait_for("code", pid);
	if ((pid = vfork()) == 0) {
		execl("/bin/sh", "sh", "-c", "(exit 4) | true; true && exit 5", NULL);
		_exit(99);
	}
	wait_for("shell", pid);
	if ((pid = fork()) == 0) {
		execl("/proc/self/exe", "setids", "x", root ? NULL : "y", NULL);
		_exit(errno == EACCES ? 8 : 99); // the file may not be the user's to execute
	}
	wait_for("itself", pid);
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0 && prctl(PR_GET_DUMPABLE) == 1);
	DONE();
}
