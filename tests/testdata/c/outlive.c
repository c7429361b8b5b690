// Descendants of every kind that live on when the first process has ended.
// Each works for a while and leaves its result in a file.
#include "guest.h"
#include <pthread.h>
#include <sys/stat.h>
#include <sys/time.h>

static int started[2], dirfd;
static volatile int ticks, sent, got, over;
static uint64_t deadline;

static uint64_t now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

static void result(const char *name, uint64_t value)
{
	char text[64];
	int n = snprintf(text, sizeof text, "%llu\n", (unsigned long long)value);
	int fd = openat(dirfd, name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
	if (write(fd, text, n) != n)
		_exit(1);
	close(fd);
}

static void begin(void)
{
	if (write(started[1], "x", 1) != 1)
		_exit(1);
	deadline = now() + 300;
}

// Functions to call in ways that the translator has to look up.
static uint64_t f0(uint64_t x) { return x * 3 + 1; }
static uint64_t f1(uint64_t x) { return x ^ x >> 7; }
static uint64_t f2(uint64_t x) { return x % 1000003 == 0 ? x : f0(x) + f1(x); }
static uint64_t (*volatile const fs[])(uint64_t) = {f0, f1, f2};

static uint64_t work(uint64_t seed)
{
	uint64_t x = seed;
	for (int i = 0; i < 20000; i++)
		x = fs[x % 3](x) + i;
	return x;
}

static void spinner(void)
{
	uint64_t want = work(5), bad = 0;
	begin();
	while (now() < deadline)
		bad += work(5) != want;
	result("spinner", bad);
}

static void tick(int sig)
{
	(void)sig;
	ticks++;
}

static void timer(void)
{
	struct itimerval it = {{0, 1000}, {0, 1000}};
	uint64_t want = work(9), bad = 0;
	signal(SIGALRM, tick);
	setitimer(ITIMER_REAL, &it, NULL);
	begin();
	while (now() < deadline) {
		bad += work(9) != want;
		usleep(500);
	}
	memset(&it, 0, sizeof it);
	setitimer(ITIMER_REAL, &it, NULL);
	result("timer", bad + (ticks == 0));
}

static void *thread(void *arg)
{
	uint64_t seed = (uintptr_t)arg, want = work(seed), bad = 0;
	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		bad += work(seed) != want;
		if (seed & 1)
			usleep(100);
	}
	return (void *)bad;
}

static void count(int sig)
{
	(void)sig;
	__atomic_fetch_add(&got, 1, __ATOMIC_SEQ_CST);
}

static void threads(void)
{
	pthread_t t[8];
	uint64_t bad = 0;
	void *ret;
	struct sigaction sa = {.sa_handler = count, .sa_flags = SA_RESTART};
	sigaction(SIGRTMIN, &sa, NULL);
	begin();
	for (intptr_t i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, thread, (void *)i);
	while (now() < deadline) {
		if (sent - got < 100) {
			pthread_kill(t[sent % 8], SIGRTMIN);
			sent++;
		}
	}
	over = 1;
	for (int i = 0; i < 8; i++) {
		pthread_join(t[i], &ret);
		bad += (uintptr_t)ret;
	}
	result("threads", bad * 1000 + (sent != got));
}

static void jit(void)
{
	unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t bad = 0;
	begin();
	for (uint32_t i = 0; now() < deadline; i++) {
		p[0] = 0xb8; // mov $i, %eax; ret
		memcpy(p + 1, &i, 4);
		p[5] = 0xc3;
		bad += ((uint32_t (*)(void))p)() != i;
	}
	result("jit", bad);
}

static void forker(void)
{
	static uint64_t bad;
	int status;
	begin();
	while (now() < deadline) {
		pid_t pid = fork();
		if (pid == 0) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		bad += waitpid(pid, &status, 0) != pid || status != 0;
		if ((pid = vfork()) == 0)
			_exit(3);
		bad += waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 3;
	}
	result("forker", bad);
}

static void vforked(void)
{
	int status;
	begin();
	pid_t pid = vfork();
	if (pid == 0) {
		struct timespec ts = {0, 200000000};
		nanosleep(&ts, NULL);
		execl("/bin/sh", "sh", "-c", "exit 6", NULL);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	result("vforked", WEXITSTATUS(status));
}

static void pingpong(void)
{
	int a[2], b[2];
	uint32_t v = 0;
	if (pipe(a) != 0 || pipe(b) != 0)
		_exit(1);
	if (fork() == 0) {
		close(a[1]);
		while (read(a[0], &v, 4) == 4) {
			v++;
			if (write(b[1], &v, 4) != 4)
				break;
		}
		_exit(0);
	}
	begin();
	uint64_t bad = 0;
	for (uint32_t i = 0; now() < deadline; i += 2) {
		v = i;
		bad += write(a[1], &v, 4) != 4 || read(b[0], &v, 4) != 4 || v != i + 1;
	}
	result("pingpong", bad);
}

static void stopped(void)
{
	setsid(); // or the kernel would hang up a group with a stopped process
	pid_t pid = fork();
	if (pid == 0) {
		raise(SIGSTOP);
		_exit(7);
	}
	int status;
	waitpid(pid, &status, WUNTRACED);
	begin();
	usleep(200000);
	kill(pid, SIGCONT);
	waitpid(pid, &status, 0);
	result("stopped", WEXITSTATUS(status));
}

static void daemon_process(void)
{
	begin();
	setsid();
	if (fork() != 0)
		_exit(0);
	if (chdir("/") != 0)
		_exit(1);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	usleep(200000);
	struct stat st;
	result("daemon", fstat(0, &st) == -1 && getppid() != 0 && getsid(0) != getpid());
}

int main(void)
{
	static void (*const kinds[])(void) = {spinner, timer, threads, jit, forker, vforked, pingpong, stopped, daemon_process};
	int n = sizeof kinds / sizeof *kinds;
	char c;

	signal(SIGPIPE, SIG_IGN);
	dirfd = open(".", O_RDONLY | O_DIRECTORY);
	CHECK(dirfd >= 0 && pipe(started) == 0);
	for (int i = 0; i < n; i++) {
		if (fork() == 0) {
			close(started[0]);
			kinds[i]();
			_exit(0);
		}
	}
	for (int i = 0; i < n; i++)
		CHECK(read(started[0], &c, 1) == 1);
	printf("all started\n");
	fflush(stdout);
	_exit(failures ? 1 : 4);
}
