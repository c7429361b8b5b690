// A thread whose code is translated, or that is in a system call which needs attention, stops no other one: here the others
// must run code that is new, and make system calls of all kinds, before it can go on.
#include "guest.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/stat.h>

enum { WAITERS = 24, GENERATORS = 3, FUNCTIONS = 64 };

static volatile int stop;
static volatile long generated[GENERATORS];

// generate writes functions into memory and calls each once.
static int generate(unsigned char *code, int n, unsigned seed)
{
	unsigned sum = 0;
	for (int i = 0; i < n; i++) {
		unsigned char *f = code + i * 64;
		unsigned v = seed + i;
		*f++ = 0xb8; // mov $v, %eax
		memcpy(f, &v, 4);
		f += 4;
		memcpy(f, "\xeb\x02\x0f\x0b\xc3", 5); // jmp over ud2; ret
		sum += ((unsigned (*)(void))(code + i * 64))();
	}
	return sum == n * seed + n * (n - 1) / 2;
}

// progress is what the others do meanwhile: new code, new memory, a new thread, a new process.
static void *nothing(void *arg) { return arg; }
static void progress(void)
{
	unsigned char *code = mmap(NULL, FUNCTIONS * 64, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t t;
	int status;
	CHECK(code != MAP_FAILED && generate(code, FUNCTIONS, 7));
	CHECK(pthread_create(&t, NULL, nothing, NULL) == 0 && pthread_join(t, NULL) == 0);
	pid_t pid = fork();
	if (pid == 0)
		_exit(generate(code, FUNCTIONS, 11) ? 3 : 4);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3);
	CHECK(munmap(code, FUNCTIONS * 64) == 0);
}

// generator runs new code all the time.
static void *generator(void *arg)
{
	volatile long *n = arg;
	while (!stop) {
		unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(code != MAP_FAILED && generate(code, 64, (unsigned)++*n));
		CHECK(munmap(code, 4096) == 0);
	}
	return NULL;
}

static int inside[2], out[2]; // pipes: the waiters say that they wait; one byte lets one of them go on
static int go_on(void)
{
	char c;
	return write(inside[1], "x", 1) == 1 && read(out[0], &c, 1) == 1;
}

// The waiters. Most of the time they wait where the system call needs the supervisor.
static void *by_vfork(void *arg)
{
	int status;
	pid_t pid = vfork();
	if (pid == 0)
		_exit(go_on() ? 5 : 6);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 5);
	return arg;
}

static void *by_spawn(void *arg)
{
	pid_t pid;
	int status;
	posix_spawn_file_actions_t actions;
	char *argv[] = {"true", NULL};
	CHECK(write(inside[1], "x", 1) == 1);
	// The child waits for a writer, and this thread for its execve.
	CHECK(posix_spawn_file_actions_init(&actions) == 0);
	CHECK(posix_spawn_file_actions_addopen(&actions, 9, "spawned", O_RDONLY, 0) == 0);
	CHECK(posix_spawn(&pid, "/bin/true", &actions, NULL, argv, NULL) == 0);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	return arg;
}

static void *by_open(void *arg)
{
	CHECK(write(inside[1], "x", 1) == 1);
	int fd = open("opened", O_RDONLY);
	CHECK(fd >= 0 && close(fd) == 0);
	return arg;
}

static void *by_signal(void *arg)
{
	sigset_t set;
	siginfo_t si;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	CHECK(write(inside[1], "x", 1) == 1);
	while (sigwaitinfo(&set, &si) != SIGRTMIN + 3)
		CHECK(errno == EINTR); // another thread took it
	return arg;
}

static const struct way {
	const char *name;
	void *(*wait)(void *);
	const char *fifo; // that lets them go on when it is opened
	int sig;          // that lets one go on
} ways[] = {
	{"vfork", by_vfork, NULL, 0},
	{"posix_spawn", by_spawn, "spawned", 0},
	{"open", by_open, "opened", 0},
	{"sigwaitinfo", by_signal, NULL, 1},
};

// together lets threads wait, makes progress, and then lets them go on.
static void together(const struct way *w)
{
	pthread_t t[WAITERS];
	char c;

	for (int i = 0; i < WAITERS; i++)
		CHECK(pthread_create(&t[i], NULL, w->wait, NULL) == 0);
	for (int i = 0; i < WAITERS; i++)
		CHECK(read(inside[0], &c, 1) == 1);
	usleep(2000);
	progress();
	printf("%s: progress\n", w->name);
	int fd = w->fifo ? open(w->fifo, O_RDWR) : -1;
	for (int i = 0; i < WAITERS; i++) {
		if (w->sig)
			CHECK(kill(getpid(), SIGRTMIN + 3) == 0);
		else if (!w->fifo)
			CHECK(write(out[1], "x", 1) == 1);
	}
	for (int i = 0; i < WAITERS; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	pthread_t t[GENERATORS];
	sigset_t set;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(mkfifo("spawned", 0600) == 0 && mkfifo("opened", 0600) == 0);
	CHECK(pipe(inside) == 0 && pipe(out) == 0);
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		together(&ways[i]);
	// Threads that need translation all the time leave the others their turn.
	for (int i = 0; i < GENERATORS; i++)
		CHECK(pthread_create(&t[i], NULL, generator, (void *)&generated[i]) == 0);
	for (int i = 0; i < 4 || !(generated[0] && generated[1] && generated[2]); i++)
		progress();
	stop = 1;
	for (int i = 0; i < GENERATORS; i++)
		CHECK(pthread_join(t[i], NULL) == 0 && generated[i] > 0);
	printf("generators: progress\n");
	DONE();
}
