// A guest whose threads all use one page that the host watches (tests/host), and count their accesses themselves. argv[1] names what
// they do; by ud2 the host is asked to watch.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { page = 4096, rounds = 150 };

// watched is the page: the first half is for all, a cache line of the second one for each thread.
static char *watched;
static __thread volatile long made; // accesses of this thread
static long accesses[8][2];             // of each: its id, and made
static volatile long value[16 * 8];
static _Atomic int done;

static char *memory(void) {
	char *m = mmap(0, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		exit(9);
	return m;
}

static void host(void *addr, uint64_t length) {
	uint64_t op = 1;
	__asm__ volatile("ud2" : "+a"(op) : "b"(addr), "c"(length) : "memory");
}

static volatile long *own(int thread) { return (volatile long *)(watched + page / 2 + 64 * thread); }

// end notes what a thread has done.
static void *end(void *thread) {
	accesses[(long)thread][0] = gettid();
	accesses[(long)thread][1] = made;
	return 0;
}

static void print(void) {
	for (unsigned i = 0; i < sizeof accesses / sizeof *accesses; i++)
		if (accesses[i][0])
			printf("%ld %ld\n", accesses[i][0], accesses[i][1]);
}

static void store(int thread) {
	*own(thread) += 1;
	made++;
}

static void *storing(void *arg) {
	for (int i = 0; i < rounds; i++)
		store((long)arg);
	return end(arg);
}

static void *adding(void *arg) {
	for (int i = 0; i < rounds; i++) {
		__asm__ volatile("lock addq $1, (%0)" : : "r"(watched) : "memory", "cc");
		made++;
	}
	return end(arg);
}

static void *filling(void *arg) {
	for (int i = 0; i < rounds / 10; i++) {
		void *to = (void *)own((long)arg);
		uint64_t n = 16;
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(i) : "memory");
		made += 16;
		__asm__ volatile("push %%rbx\n\tmov %%rsp, %%rbx\n\tlea 64(%0), %%rsp\n\tpushfq\n\tmov %%rbx, %%rsp\n\tpop %%rbx"
		                 : : "r"(own((long)arg)) : "rcx", "memory", "cc");
		made++;
	}
	return end(arg);
}

static void *forking(void *arg) {
	for (int i = 0; i < rounds / 15; i++) {
		store((long)arg);
		pid_t child = fork();
		if (child == 0) { // its memory is not watched
			*own((long)arg + 1) += 1;
			_exit(0);
		}
		waitpid(child, 0, 0);
		store((long)arg);
	}
	return end(arg);
}

// computing makes no system calls, uses the page seldom, and is kept from running all the time.
static void *computing(void *arg) {
	for (long i = 0; !done; i++) {
		value[0] += i;
		if (i % (1 << 20) == 0)
			store((long)arg);
	}
	return end(arg);
}

// sleeping comes back from system calls all the time, to the page.
static void *sleeping(void *arg) {
	int fd[2];
	if (pipe(fd))
		exit(9);
	for (int i = 0; i < rounds; i++) {
		char c = i;
		if (write(fd[1], &c, 1) != 1 || read(fd[0], &c, 1) != 1 || c != (char)i)
			exit(9);
		store((long)arg);
	}
	return end(arg);
}

static void onSignal(int sig) {
	__asm__ volatile("lock addq $1, (%0)" : : "r"(watched + 8) : "memory", "cc");
	made++;
}

static void threads(void) {
	static void *(*const work[])(void *) = {storing, adding, filling, forking, sleeping, storing};
	enum { n = sizeof work / sizeof *work };
	pthread_t t[n], other;
	watched = memory();
	struct sigaction sa = {.sa_handler = onSignal, .sa_flags = SA_RESTART};
	sigaction(SIGUSR1, &sa, 0);
	sigaction(SIGSEGV, &sa, 0);
	host(watched, page);
	for (long i = 0; i < n; i++)
		pthread_create(&t[i], 0, work[i], (void *)i);
	pthread_create(&other, 0, computing, (void *)n);
	for (int i = 0; i < 60; i++) {
		pthread_kill(t[i % 2], SIGUSR1);
		if (i % 10 == 0)
			pthread_kill(t[1], SIGSEGV);
		usleep(300);
	}
	for (int i = 0; i < n; i++)
		pthread_join(t[i], 0);
	done = 1;
	pthread_join(other, 0);
	print();
}

// flag: one thread looks at watched memory until another one, which has to be let run for that, stores there.
static void *late(void *arg) {
	for (long i = 0; i < 20000000; i++)
		value[0] += i;
	*own(1) = 1;
	made++;
	return end(arg);
}

static void flag(void) {
	watched = memory();
	host(watched, page);
	pthread_t t;
	pthread_create(&t, 0, late, (void *)1);
	while (!*own(1))
		made++;
	made++; // the last one
	pthread_join(t, 0);
	end(0);
	print();
}

// sharing: another process with the same memory is stopped, and killed, at any time.
static int child(void *arg) {
	for (;;) {
		*own(2) += 1;
		value[64] = *own(2);
	}
}

static void sharing(void) {
	static char stack[1 << 16];
	watched = memory();
	host(watched, page);
	for (int i = 0; i < 12; i++) {
		pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
		while (value[64] == 0)
			store(1);
		usleep(37 * i);
		if (i % 3 == 1) {
			kill(pid, SIGSTOP);
			usleep(3000);
		}
		kill(pid, SIGKILL);
		for (int k = 0; k < 5; k++)
			store(1);
		waitpid(pid, 0, 0);
		value[64] = 0;
		for (int k = 0; k < 5; k++)
			store(1);
	}
	end(0);
	print();
}

// left: another process with the same memory is killed in a system call with a watched buffer.
static int polling(void *arg) {
	value[64] = 1;
	poll((void *)watched, 1, -1);
	return 0;
}

static void left(void) {
	static char stack[1 << 16];
	watched = memory();
	int fd[2];
	if (pipe(fd))
		exit(9);
	*(struct pollfd *)watched = (struct pollfd){.fd = fd[0], .events = POLLIN};
	host(watched, page);
	pid_t pid = clone(polling, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
	while (value[64] == 0)
		;
	usleep(20000);
	kill(pid, SIGKILL);
	waitpid(pid, 0, 0);
	while (*(volatile char *)(watched + 64) == 0) // the host stores there when it is told
		store(8);
}

// passing: threads sleep in system calls with watched buffers, in which nobody else is seen.
static int to[2], from[2];

static void *reader(void *arg) {
	char *m = watched + page / 2;
	for (int i = 0;; i++) {
		long n = read(to[0], m + 3, 100);
		if (n == 0)
			break;
		if (n != 4 || memcmp(m + 3, "abcd", 4) || write(from[1], m + 2, 6) != 6)
			exit(8);
	}
	return end(arg);
}

static void passing(void) {
	watched = memory();
	if (pipe(to) || pipe(from))
		exit(9);
	host(watched, page);
	pthread_t t;
	pthread_create(&t, 0, reader, (void *)1);
	watched[page / 2 + 2] = '<';
	watched[page / 2 + 7] = '>';
	watched[page / 2 + 99] = '!';
	made += 3;
	char got[6];
	for (int i = 0; i < 20; i++) {
		usleep(3000); // it sleeps
		for (int k = 0; k < 10; k++)
			store(8);
		if (write(to[1], "abcd", 4) != 4 || read(from[0], got, 6) != 6 || memcmp(got, "<abcd>", 6))
			exit(7);
	}
	close(to[1]);
	pthread_join(t, 0);
	end(0);
	print();
}

// waiting: a thread waits for a word of the page by futex(2).
static void *waiter(void *arg) {
	volatile int *word = (void *)watched;
	for (int i = 0; i < 20; i++)
		while (*word == i)
			syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, i, 0, 0, 0);
	return 0;
}

static void waiting(void) {
	watched = memory();
	host(watched, page);
	pthread_t t;
	pthread_create(&t, 0, waiter, 0);
	for (int i = 0; i < 20; i++) {
		usleep(3000); // it sleeps
		for (int k = 0; k < 10; k++)
			store(8);
		*(volatile int *)watched = i + 1;
		made++;
		syscall(SYS_futex, watched, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	}
	pthread_join(t, 0);
	end(0);
	print();
}

// robust: a thread ends with mutexes that are in the watched page.
static pthread_mutex_t *mutex;

static void *owner(void *arg) {
	for (int i = 0; i < 3; i++)
		pthread_mutex_lock(&mutex[i]);
	if (arg)
		pthread_mutex_unlock(&mutex[1]);
	return 0;
}

static void robust(void) {
	watched = memory();
	mutex = (void *)watched;
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	for (int i = 0; i < 3; i++)
		pthread_mutex_init(&mutex[i], &a);
	host(watched, page);
	for (long i = 0; i < 2; i++) {
		pthread_t t;
		pthread_create(&t, 0, owner, (void *)i);
		pthread_join(t, 0);
		for (int k = 0; k < 3; k++) {
			int r = pthread_mutex_lock(&mutex[k]);
			if (r != (i == 1 && k == 1 ? 0 : EOWNERDEAD))
				exit(20 + r);
			if (r == EOWNERDEAD)
				pthread_mutex_consistent(&mutex[k]);
			pthread_mutex_unlock(&mutex[k]);
		}
	}
}

int main(int argc, char **argv) {
	if (argc < 2)
		return 2;
	if (strcmp(argv[1], "threads") == 0)
		threads();
	else if (strcmp(argv[1], "flag") == 0)
		flag();
	else if (strcmp(argv[1], "sharing") == 0)
		sharing();
	else if (strcmp(argv[1], "passing") == 0)
		passing();
	else if (strcmp(argv[1], "robust") == 0)
		robust();
	else if (strcmp(argv[1], "left") == 0)
		left();
	else if (strcmp(argv[1], "waiting") == 0)
		waiting();
	else
		return 2;
	return 0;
}
