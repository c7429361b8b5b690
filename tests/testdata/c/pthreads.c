// More of threads: cancellation, detached ones, thread-local destructors,
// robust and priority-inheriting mutexes, barriers, signals to one thread,
// ending the process while threads sleep, ending the first thread.
#include "guest.h"
#include <pthread.h>
#include <semaphore.h>

static pthread_key_t key;
static int destroyed, detached;
static pthread_barrier_t barrier;
static sem_t sem;
static __thread volatile int got;
static volatile int total;

static void destroy(void *p) { __atomic_fetch_add(&destroyed, (int)(intptr_t)p, __ATOMIC_SEQ_CST); }

static void *use_key(void *p)
{
	CHECK(pthread_setspecific(key, p) == 0);
	CHECK(pthread_getspecific(key) == p);
	int r = pthread_barrier_wait(&barrier);
	CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
	return p;
}

static void cleanup(void *p) { ++*(int *)p; }

static void *sleeper(void *p)
{
	pthread_cleanup_push(cleanup, p);
	sem_post(&sem);
	for (;;)
		sleep(1000);
	pthread_cleanup_pop(0);
	return NULL;
}

static void *detach(void *p)
{
	(void)p;
	__atomic_fetch_add(&detached, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *die_locked(void *p)
{
	CHECK(pthread_mutex_lock(p) == 0);
	return NULL;
}

static void on(int sig)
{
	(void)sig;
	got++;
	__atomic_fetch_add(&total, 1, __ATOMIC_SEQ_CST);
}

static void *receiver(void *p)
{
	sem_post(&sem);
	while (got < 100)
		if (p)
			usleep(100);
	return (void *)(intptr_t)got;
}

static void *last(void *p)
{
	CHECK(pthread_join(*(pthread_t *)p, NULL) == 0);
	printf("the first thread is gone\n");
	fflush(stdout);
	for (int i = 0; i < 20; i++) {
		pthread_t t;
		pthread_create(&t, NULL, sleeper, &failures);
	}
	usleep(20000);
	exit(failures != 0 ? 1 : 17);
}

int main(void)
{
	pthread_t t[40];
	void *ret;

	CHECK(sem_init(&sem, 0, 0) == 0);
	CHECK(pthread_key_create(&key, destroy) == 0);
	CHECK(pthread_barrier_init(&barrier, NULL, 20) == 0);
	for (intptr_t i = 0; i < 20; i++)
		CHECK(pthread_create(&t[i], NULL, use_key, (void *)(i + 1)) == 0);
	for (int i = 0; i < 20; i++)
		CHECK(pthread_join(t[i], &ret) == 0 && (intptr_t)ret == i + 1);
	printf("destroyed %d\n", destroyed);

	int cleaned = 0;
	for (int i = 0; i < 10; i++) {
		CHECK(pthread_create(&t[i], NULL, sleeper, &cleaned) == 0);
		sem_wait(&sem);
		CHECK(pthread_cancel(t[i]) == 0);
		CHECK(pthread_join(t[i], &ret) == 0 && ret == PTHREAD_CANCELED);
	}
	printf("cancelled %d\n", cleaned);

	pthread_attr_t attr;
	CHECK(pthread_attr_init(&attr) == 0);
	CHECK(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0);
	CHECK(pthread_attr_setstacksize(&attr, 1 << 16) == 0);
	for (int i = 0; i < 1000; i++)
		while (pthread_create(&t[0], &attr, detach, NULL) != 0)
			usleep(1000);
	while (__atomic_load_n(&detached, __ATOMIC_SEQ_CST) < 1000)
		usleep(1000);
	printf("detached %d\n", detached);

	pthread_mutexattr_t ma;
	pthread_mutex_t m;
	CHECK(pthread_mutexattr_init(&ma) == 0);
	CHECK(pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST) == 0);
	CHECK(pthread_mutex_init(&m, &ma) == 0);
	CHECK(pthread_create(&t[0], NULL, die_locked, &m) == 0);
	CHECK(pthread_join(t[0], NULL) == 0);
	CHECK(pthread_mutex_lock(&m) == EOWNERDEAD);
	CHECK(pthread_mutex_consistent(&m) == 0 && pthread_mutex_unlock(&m) == 0);
	CHECK(pthread_mutexattr_init(&ma) == 0);
	CHECK(pthread_mutexattr_setprotocol(&ma, PTHREAD_PRIO_INHERIT) == 0);
	CHECK(pthread_mutex_init(&m, &ma) == 0);
	CHECK(pthread_mutex_lock(&m) == 0);
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec = (ts.tv_nsec + 10000000) % 1000000000;
	ts.tv_sec += ts.tv_nsec < 10000000;
	CHECK(pthread_mutex_unlock(&m) == 0);

	// Signals for one thread each; real-time ones, so that none is merged.
	struct sigaction sa = {.sa_handler = on};
	CHECK(sigaction(SIGRTMIN, &sa, NULL) == 0);
	for (intptr_t i = 0; i < 4; i++) {
		CHECK(pthread_create(&t[i], NULL, receiver, (void *)(i % 2)) == 0);
		sem_wait(&sem);
	}
	for (int n = 0; n < 100; n++)
		for (int i = 0; i < 4; i++)
			CHECK(pthread_kill(t[i], SIGRTMIN) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(t[i], &ret) == 0 && (intptr_t)ret == 100);
	printf("signals %d\n", total);

	// A fork of a threaded process has one thread.
	pid_t pid = fork();
	if (pid == 0) {
		CHECK(pthread_create(&t[0], NULL, detach, NULL) == 0);
		CHECK(pthread_join(t[0], NULL) == 0);
		_exit(detached == 1001 ? 5 : 6);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("fork", status);

	static pthread_t self;
	self = pthread_self();
	CHECK(pthread_create(&t[0], NULL, last, &self) == 0);
	pthread_exit(NULL);
}
