// Resource limits: what a program sees of them, and what they do to it.
#include "guest.h"
#include <dirent.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>

static const char *const names[] = {"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
	"memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"};

static void show(const char *when)
{
	for (int i = 0; i < RLIMIT_NLIMITS; i++) {
		struct rlimit a, b;
		CHECK(getrlimit(i, &a) == 0 && prlimit(getpid(), i, NULL, &b) == 0);
		CHECK(a.rlim_cur == b.rlim_cur && a.rlim_max == b.rlim_max);
		CHECK(syscall(SYS_getrlimit, i, &b) == 0 && a.rlim_cur == b.rlim_cur && a.rlim_max == b.rlim_max);
		printf("%s: %s %lld %lld\n", when, names[i], (long long)a.rlim_cur, (long long)a.rlim_max);
	}
}

// proc shows what /proc says of the limits that the program has changed.
static void proc(const char *line)
{
	char buf[200];
	FILE *f = fopen("/proc/self/limits", "r");
	while (f && fgets(buf, sizeof buf, f))
		if (strstr(buf, line))
			printf("%s", buf);
	if (f)
		fclose(f);
}

static void *map(size_t size)
{
	return mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void *idle(void *arg) { return arg; }

#define MB (1ul << 20)

static void space(void)
{
	struct rlimit old, rl;
	CHECK(getrlimit(RLIMIT_AS, &old) == 0);
	rl = old;
	rl.rlim_cur = 256 * MB;
	CHECK(setrlimit(RLIMIT_AS, &rl) == 0);
	CHECK(map(300 * MB) == MAP_FAILED && errno == ENOMEM);
	char *a = map(100 * MB), *b = map(100 * MB);
	CHECK(a != MAP_FAILED && b != MAP_FAILED);
	CHECK(map(100 * MB) == MAP_FAILED && errno == ENOMEM);
	// Over itself it takes no more than before.
	CHECK(mmap(a, 100 * MB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a);
	CHECK(mremap(a, 100 * MB, 200 * MB, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
	CHECK(sbrk(100 * MB) == (void *)-1 && errno == ENOMEM);
	CHECK(sbrk(1 * MB) != (void *)-1);
	CHECK(malloc(200 * MB) == NULL);
	CHECK(munmap(b, 100 * MB) == 0);
	CHECK(sbrk(100 * MB) != (void *)-1 && sbrk(-100l * (long)MB) != (void *)-1);
	b = map(100 * MB);
	CHECK(b != MAP_FAILED && munmap(b, 100 * MB) == 0 && munmap(a, 100 * MB) == 0);
	pthread_attr_t attr;
	pthread_t t;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 300 * MB);
	CHECK(pthread_create(&t, &attr, idle, NULL) == EAGAIN);
	pid_t pid = fork();
	if (pid == 0) {
		CHECK(getrlimit(RLIMIT_AS, &rl) == 0 && rl.rlim_cur == 256 * MB);
		CHECK(map(300 * MB) == MAP_FAILED);
		rl.rlim_cur = rl.rlim_max = 512 * MB;
		CHECK(setrlimit(RLIMIT_AS, &rl) == 0);
		rl.rlim_cur = 1024 * MB;
		CHECK(setrlimit(RLIMIT_AS, &rl) == -1 && errno == EINVAL);
		rl.rlim_cur = 300 * MB;
		CHECK(setrlimit(RLIMIT_AS, &rl) == 0);
		CHECK(map(200 * MB) != MAP_FAILED && map(200 * MB) == MAP_FAILED);
		proc("address space");
		fflush(stdout);
		_exit(failures);
	}
	// A parent sets a limit of its child.
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	int go[2];
	CHECK(pipe(go) == 0);
	pid = fork();
	if (pid == 0) {
		char c;
		CHECK(read(go[0], &c, 1) == 1);
		CHECK(getrlimit(RLIMIT_AS, &rl) == 0 && rl.rlim_cur == 128 * MB);
		CHECK(map(200 * MB) == MAP_FAILED);
		fflush(stdout);
		_exit(failures);
	}
	rl.rlim_cur = 128 * MB;
	CHECK(prlimit(pid, RLIMIT_AS, &rl, &rl) == 0 && rl.rlim_cur == 256 * MB);
	CHECK(write(go[1], "x", 1) == 1);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	close(go[0]);
	close(go[1]);
	CHECK(setrlimit(RLIMIT_AS, &old) == 0);
	CHECK((a = map(300 * MB)) != MAP_FAILED && munmap(a, 300 * MB) == 0);
	CHECK(prlimit(0, RLIMIT_AS, (void *)8, NULL) == -1 && errno == EFAULT);
	CHECK(prlimit(0, 99, NULL, &rl) == -1 && errno == EINVAL);
	CHECK(prlimit(1 << 22 | 12345, RLIMIT_AS, NULL, &rl) == -1 && errno == ESRCH);
}

// files uses up all descriptors that it may have, and goes on from there.
static void files(char *self)
{
	struct rlimit rl = {10, 10};
	CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
	CHECK(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	rl.rlim_max = rl.rlim_cur = 11;
	CHECK(setrlimit(RLIMIT_NOFILE, &rl) == -1 && errno == EPERM);
	CHECK(getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur == 10 && rl.rlim_max == 10);
	proc("open files");
	int last = -1, fd;
	while ((fd = dup(1)) >= 0)
		last = fd;
	CHECK(last == 9 && errno == EMFILE);
	fflush(stdout);
	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			// Code of its own, which needs a translation cache of its own.
			unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			memcpy(code, "\xb8\x07\x00\x00\x00\xc3", 6); // mov eax, 7; ret
			CHECK(((int (*)(void))code)() == 7);
			if (i == 1)
				execl(self, self, "executed", NULL);
			if (i == 2) {
				void *high = mmap((void *)0x500000000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
				memcpy(high, "\xb8\x08\x00\x00\x00\xc3", 6);
				CHECK(((int (*)(void))high)() == 8);
			}
			CHECK(dup(1) == -1 && errno == EMFILE);
			fflush(stdout);
			_exit(failures);
		}
		int status;
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status("child", status);
	}
}

// descriptors closes and replaces all that a program can name.
static void descriptors(char *self)
{
	pid_t pid = fork();
	if (pid == 0) {
		CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
		for (int fd = 3; fd < 300; fd++)
			CHECK(dup2(1, fd) == fd);
		void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memcpy(m, "\xb8\x09\x00\x00\x00\xc3", 6);
		CHECK(((int (*)(void))m)() == 9);
		CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
		execl(self, self, "executed", NULL);
		_exit(9);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("closed", status);
}

static void executed(void)
{
	struct rlimit rl;
	CHECK(getrlimit(RLIMIT_NOFILE, &rl) == 0);
	int open = 0;
	for (int fd = 0; fd < 300; fd++)
		open += fcntl(fd, F_GETFD) >= 0;
	printf("executed with %d descriptors, limit %s\n", open, rl.rlim_max == 10 ? "10" : "high");
	DONE();
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "executed"))
		executed();
	if (argc > 1) {
		show(argv[1]);
		fflush(stdout);
		DONE();
	}
	space();
	// All memory is locked: far less than what the translator has mapped.
	if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
		char *m = mmap(NULL, 1 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		unsigned char in[256];
		CHECK(m != MAP_FAILED && mincore(m, 1 * MB, in) == 0 && (in[0] & 1) && (in[255] & 1));
		CHECK(munlockall() == 0 && munmap(m, 1 * MB) == 0);
	} else {
		CHECK(errno == EPERM || errno == ENOMEM);
	}
	CHECK(mlockall(0) == -1 && errno == EINVAL);
	fflush(stdout);
	descriptors(argv[0]);
	fflush(stdout);
	files(argv[0]);
	DONE();
}
