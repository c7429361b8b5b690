// Robust and priority-inheriting futexes: owners that end as threads, by
// exit, by a signal and by execve while others wait, and mutexes that hand on.
#include "guest.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>

extern char **environ;
static sem_t locked;
static pthread_mutex_t *m;

static void init(int protocol, int robust)
{
	pthread_mutexattr_t a;
	CHECK(pthread_mutexattr_init(&a) == 0);
	CHECK(pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED) == 0);
	CHECK(pthread_mutexattr_setprotocol(&a, protocol) == 0);
	CHECK(pthread_mutexattr_setrobust(&a, robust) == 0);
	CHECK(pthread_mutex_init(m, &a) == 0);
}

// recover takes a mutex whose owner is gone.
static void recover(const char *what)
{
	int r = pthread_mutex_lock(m);
	printf("%s: %s\n", what, r == EOWNERDEAD ? "owner died" : r == 0 ? "locked" : "error");
	if (r == EOWNERDEAD)
		CHECK(pthread_mutex_consistent(m) == 0);
	CHECK(pthread_mutex_unlock(m) == 0);
}

static void *owner(void *arg)
{
	CHECK(pthread_mutex_lock(m) == 0);
	sem_post(&locked);
	usleep(20000); // most of the time the others sleep in the kernel by now
	return arg;
}

static void *waiter(void *arg)
{
	int r = pthread_mutex_lock(m);
	if (r == EOWNERDEAD) {
		__atomic_fetch_add((int *)arg, 1, __ATOMIC_SEQ_CST);
		r = pthread_mutex_consistent(m);
	}
	CHECK(r == 0 && pthread_mutex_unlock(m) == 0);
	return NULL;
}

// threads ends a thread that owns the mutex while others wait for it.
static void threads(const char *what)
{
	pthread_t o, w[4];
	int died = 0;
	CHECK(pthread_create(&o, NULL, owner, NULL) == 0);
	sem_wait(&locked);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&w[i], NULL, waiter, &died) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(w[i], NULL) == 0);
	CHECK(pthread_join(o, NULL) == 0);
	printf("%s: %d of 4 saw it\n", what, died);
}

// processes ends a process that owns the mutex while this one waits for it.
static void processes(const char *what, char how)
{
	int p[2], status;
	char byte;
	CHECK(pipe(p) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		pthread_mutex_lock(m);
		if (write(p[1], "x", 1) != 1)
			_exit(1);
		usleep(20000);
		switch (how) {
		case 'e':
			_exit(0);
		case 'k':
			raise(SIGKILL);
			break;
		case 's':
			*(volatile int *)NULL = 0;
			break;
		case 'x':
			execle("/proc/self/exe", "futexes", "child", NULL, environ);
		}
	}
	CHECK(read(p[0], &byte, 1) == 1);
	close(p[0]);
	close(p[1]);
	recover(what);
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status(what, status);
}

static int word;
static volatile int stage;

static void *pi_waiter(void *arg)
{
	CHECK(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, NULL) == 0);
	CHECK((word & FUTEX_TID_MASK) == syscall(SYS_gettid));
	stage = 2;
	CHECK(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI) == 0);
	return arg;
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1)
		return 3;
	setvbuf(stdout, NULL, _IOLBF, 0);
	m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(m != MAP_FAILED && sem_init(&locked, 0, 0) == 0);
	static const struct {
		const char *name;
		int protocol;
	} kinds[] = {{"robust", PTHREAD_PRIO_NONE}, {"robust PI", PTHREAD_PRIO_INHERIT}};
	for (int k = 0; k < 2; k++) {
		char what[64];
		init(kinds[k].protocol, PTHREAD_MUTEX_ROBUST);
		threads(kinds[k].name);
		for (const char *how = "eksx"; *how; how++) {
			snprintf(what, sizeof what, "%s %c", kinds[k].name, *how);
			processes(what, *how);
		}
	}
	// Not recovered, it cannot be used any more.
	init(PTHREAD_PRIO_NONE, PTHREAD_MUTEX_ROBUST);
	pthread_t t;
	CHECK(pthread_create(&t, NULL, owner, NULL) == 0 && pthread_join(t, NULL) == 0);
	CHECK(pthread_mutex_lock(m) == EOWNERDEAD && pthread_mutex_unlock(m) == 0);
	CHECK(pthread_mutex_lock(m) == ENOTRECOVERABLE);

	// The kernel hands a priority-inheriting futex to its waiter.
	word = syscall(SYS_gettid);
	CHECK(pthread_create(&t, NULL, pi_waiter, NULL) == 0);
	while (!(__atomic_load_n(&word, __ATOMIC_SEQ_CST) & FUTEX_WAITERS))
		usleep(100);
	CHECK(stage == 0);
	stage = 1;
	CHECK(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI) == 0);
	CHECK(pthread_join(t, NULL) == 0 && stage == 2);
	CHECK(syscall(SYS_futex, &word, FUTEX_TRYLOCK_PI) == 0);
	CHECK(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, NULL) == -1 && errno == EDEADLK);
	// A wait that times out, and one whose value has changed.
	struct timespec ms = {0, 1000000};
	int v = 5;
	CHECK(syscall(SYS_futex, &v, FUTEX_WAIT, 5, &ms) == -1 && errno == ETIMEDOUT);
	CHECK(syscall(SYS_futex, &v, FUTEX_WAIT, 4, &ms) == -1 && errno == EAGAIN);
	DONE();
}
