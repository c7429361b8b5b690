// More code than a small cache has room for: some functions that are called all the time, and many that are called now and then. Each
// returns what it should, whatever becomes of its translation meanwhile.
#include "code.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/time.h>

enum { HOT = 300, WORK = 20 };

static unsigned char *code;
static int size = 128, functions = 12000; // bytes of one, and how many there are

// make writes function i, which is not much like the others.
static void make(int i)
{
	unsigned char *p = code + (long)i * size, *end = p + size - 16;
	*p++ = 0x89, *p++ = 0xf8; // mov eax,edi
	unsigned v = i * 2654435761u;
	for (int n = 0; n < WORK; n++, v = v * 69069 + 1) {
		*p++ = v & 0x10000 ? 0x05 : 0x35; // add eax,v or xor eax,v
		memcpy(p, &v, 4);
		p += 4;
	}
	for (; p < end; p += 10) {
		p[0] = 0x49, p[1] = 0xba; // mov r10,i
		memcpy(p + 2, &(long){i}, 8);
	}
	*p = 0xc3; // ret
}

// value is what function i returns.
static int value(int i, int x)
{
	unsigned n = x, v = i * 2654435761u;
	for (int k = 0; k < WORK; k++, v = v * 69069 + 1)
		n = v & 0x10000 ? n + v : n ^ v;
	return (int)n;
}

static void check(int i, int x) { CHECK((int)((fn)(code + (long)i * size))(x) == value(i, x)); }

static void all_hot(int x)
{
	for (int i = 0; i < HOT; i++)
		check(i * (functions / HOT), x);
}

// work calls n functions that are not hot, from the one with this number on, and all that are hot for each 50 of them.
static void work(int from, int n)
{
	for (int i = 0; i < n; i++) {
		check((from + i) % functions, i);
		if (i % 50 == 0)
			all_hot(i);
	}
}

static atomic_int alarms;

static void alarmed(int sig)
{
	CHECK(sig == SIGALRM);
	int n = alarms++;
	check(n * 7919 % functions, n);
}

static void *worker(void *arg)
{
	work((int)(long)arg, 1500);
	return NULL;
}

// A function that is written anew each time.
static void *rewriter(void *arg)
{
	unsigned char *p = map(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	for (int i = 0; i < 3000; i++) {
		p[0] = 0xb8; // mov eax,i
		memcpy(p + 1, &i, 4);
		memcpy(p + 5, i % 2 ? "\x01\xf8\xc3" : "\x29\xf8\xc3", 3); // add or sub eax,edi ; ret
		CHECK((int)((fn)p)(3) == (i % 2 ? i + 3 : i - 3));
	}
	return arg;
}

static void ended(pid_t pid)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "all";
	if (strcmp(mode, "endless") == 0)
		size = 1024, functions = 1000; // which fill a cache faster
	if (strcmp(mode, "grow") == 0)
		size = 2040, functions = 9000;
	code = map((long)functions * size, PROT_READ | PROT_WRITE);
	for (int i = 0; i < functions; i++)
		make(i);
	CHECK(mprotect(code, (long)functions * size, PROT_READ | PROT_EXEC) == 0);
	if (strcmp(mode, "hot") == 0) {
		work(0, functions);
		DONE();
	}
	if (strcmp(mode, "grow") == 0) { // from the little room that there is for a while
		const long most = 0x7ffc0000 - 0x21000000;
		unsigned char *p = (unsigned char *)0x21000000;
		CHECK(mmap(p, most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == p);
		CHECK(munmap(p, most) == 0);
		for (int i = 0; i < functions; i++)
			check(i, i);
		for (int i = 0; i < functions; i++)
			check(i, i);
		DONE();
	}
	if (strcmp(mode, "fault") == 0) { // in another thread than the work
		pthread_t thread;
		CHECK(pthread_create(&thread, NULL, worker, (void *)0L) == 0);
		int v = 0;
		asm volatile("mov (%1),%0" : "=a"(v) : "r"(0L)); // the host gives it a value
		CHECK(v == 4711);
		CHECK(pthread_join(thread, NULL) == 0);
		DONE();
	}
	if (strcmp(mode, "endless") == 0) { // some work for each byte of standard input
		char c;
		while (read(0, &c, 1) > 0) {
			for (int i = 0; i < functions; i++)
				check(i, c);
			CHECK(write(1, &c, 1) == 1);
		}
		DONE();
	}
	work(0, 1000);

	// In a process that shares the cache, beside its parent.
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		work(3000, 1500);
		_exit(failures ? 1 : 5);
	}
	work(5000, 1000);
	ended(pid);

	// While the parent waits in vfork, and another process shares the cache.
	if ((pid = fork()) == 0) {
		if ((pid = vfork()) == 0) {
			work(9000, 1500);
			_exit(failures ? 1 : 5);
		}
		ended(pid);
		_exit(failures ? 1 : 5);
	}
	ended(pid);

	// While the parent waits in vfork.
	if ((pid = vfork()) == 0) {
		work(7000, 1500);
		_exit(failures ? 1 : 5);
	}
	ended(pid);

	// Beside one that is stopped.
	int pipes[2];
	CHECK(pipe(pipes) == 0 && (pid = fork()) >= 0);
	if (pid == 0) {
		CHECK(write(pipes[1], "x", 1) == 1);
		for (volatile int i = 0;; i++) // until it is killed
			check(i % 100, i);
	}
	char c;
	CHECK(read(pipes[0], &c, 1) == 1 && kill(pid, SIGSTOP) == 0);
	int status;
	CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	work(1000, 1500);
	CHECK(kill(pid, SIGCONT) == 0);
	work(4000, 100);
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));

	// With other threads, and signals at all times.
	struct sigaction sa = {.sa_handler = alarmed, .sa_flags = SA_RESTART};
	CHECK(sigaction(SIGALRM, &sa, NULL) == 0);
	struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	pthread_t threads[4];
	for (long i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, i == 3 ? rewriter : worker, (void *)(i * 2500)) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	while (alarms == 0)
		pause();
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
	DONE();
}
