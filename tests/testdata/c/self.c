// What a program sees of itself under /proc and by prctl.
#include "guest.h"
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>

static void show(const char *path)
{
	char buf[4096];
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, buf, sizeof buf);
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] == 0)
			buf[i] = '|';
	printf("%s: %.*s\n", path, (int)n, buf);
	close(fd);
}

static void *rename_thread(void *arg)
{
	char name[16];
	CHECK(prctl(PR_SET_NAME, "other") == 0);
	CHECK(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "other"));
	return arg;
}

int main(int argc, char **argv)
{
	char buf[PATH_MAX], exename[PATH_MAX] = {0}, name[17] = {0};

	(void)argc;
	ssize_t n = readlink("/proc/self/exe", buf, sizeof buf);
	memcpy(exename, buf, n);
	printf("exe %s\n", exename);
	show("/proc/self/cmdline");
	show("/proc/self/comm");
	n = readlink("/proc/self/cwd", buf, sizeof buf);
	CHECK(n > 0 && getcwd(name, 0) == NULL);
	int fd = open("/proc/self/environ", O_RDONLY);
	CHECK(fd >= 0 && read(fd, buf, 5) == 5 && !memcmp(buf, "PATH=", 5));
	CHECK(prctl(PR_GET_NAME, name) == 0);
	printf("name %s\n", name);
	CHECK(prctl(PR_SET_NAME, "renamed") == 0);
	show("/proc/self/comm");
	pthread_t t;
	CHECK(pthread_create(&t, NULL, rename_thread, NULL) == 0 && pthread_join(t, NULL) == 0);
	show("/proc/thread-self/comm");
	CHECK(prctl(PR_GET_DUMPABLE) == 1);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
	int sig = -1;
	CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == 0);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
	CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == SIGTERM);
	CHECK(prctl(PR_SET_PDEATHSIG, 0) == 0);
	struct rlimit rl, old;
	CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	rl = old;
	rl.rlim_cur = 10;
	CHECK(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	for (int i = 0; i < 20; i++)
		n = dup(0);
	CHECK(n == -1 && errno == EMFILE);
	for (int i = 4; i < 10; i++)
		close(i);
	CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
	cpu_set_t set;
	CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0);
	struct utsname u;
	CHECK(uname(&u) == 0);
	printf("%s %s, ids %d %d, nice %d\n", u.sysname, u.machine, getuid(), getegid(), getpriority(PRIO_PROCESS, 0));
	// Signals that it inherited: none blocked, none ignored, none pending.
	sigset_t s;
	struct sigaction sa;
	CHECK(sigprocmask(SIG_SETMASK, NULL, &s) == 0);
	for (int i = 1; i < NSIG; i++) {
		if (sigismember(&s, i) == 1)
			printf("blocked %d\n", i);
		if (sigaction(i, NULL, &sa) == 0 && sa.sa_handler != SIG_DFL)
			printf("not default %d\n", i);
	}
	stack_t ss;
	CHECK(sigaltstack(NULL, &ss) == 0 && ss.ss_flags == SS_DISABLE);
	// Its own mappings, by name and place.
	FILE *f = fopen("/proc/self/maps", "r");
	int exe = 0, stack = 0, text = 0, vdso = 0;
	while (f && fgets(buf, sizeof buf, f)) {
		unsigned long lo, hi;
		CHECK(sscanf(buf, "%lx-%lx", &lo, &hi) == 2);
		exe += strstr(buf, exename) != NULL;
		stack += strstr(buf, "[stack]") != NULL && (unsigned long)argv >= lo && (unsigned long)argv < hi;
		vdso += strstr(buf, "[vdso]") != NULL;
		text += strstr(buf, exename) != NULL && (unsigned long)main >= lo && (unsigned long)main < hi;
	}
	printf("maps: program %s, text %d, stack %d, vdso %d\n", exe > 2 ? "several" : "few", text, stack, vdso);
	DONE();
}
