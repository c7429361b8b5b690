// Threads in number: 200 at once that meet, thousands of detached ones, clone
// with a stack and thread-local storage of its own, execve and exit while
// others come and go.
#include "guest.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>

enum { CROWD = 200, DETACHED = 2000 };

static pthread_barrier_t meet;
static long sum;
static int done;

static void *one_of_the_crowd(void *arg)
{
	for (int i = 0; i < 20; i++) {
		__atomic_fetch_add(&sum, (intptr_t)arg, __ATOMIC_SEQ_CST);
		int r = pthread_barrier_wait(&meet);
		CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
	}
	return arg;
}

static void *short_lived(void *arg)
{
	(void)arg;
	__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

// A thread made by hand: its FS base points at tls.
static struct {
	void *self;
	long value;
} tls;
static int child_tid;

static int by_hand(void *arg)
{
	long v, *self;
	__asm__("mov %%fs:0, %0" : "=r"(self));
	__asm__("mov %%fs:8, %0" : "=r"(v));
	*(long *)arg = (void *)self == &tls ? v : -1;
	__asm__ volatile("movq $7, %%fs:8" ::: "memory");
	syscall(SYS_exit, 0);
	return 0;
}

static void *wait_in_kernel(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

static void *come_and_go(void *arg)
{
	pthread_attr_t a;
	pthread_t t;
	(void)arg;
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	for (;;)
		pthread_create(&t, &a, short_lived, NULL);
	return NULL;
}

static void *exec_now(void *arg)
{
	execl("/proc/self/exe", "manythreads", arg, NULL);
	_exit(99);
}

int main(int argc, char **argv)
{
	pthread_t t[CROWD], other;
	pthread_attr_t a;
	void *ret;
	int status;
	pid_t pid;

	if (argc > 1)
		return atoi(argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 1 << 16);
	for (int round = 0; round < 3; round++) {
		CHECK(pthread_barrier_init(&meet, NULL, CROWD) == 0);
		for (intptr_t i = 0; i < CROWD; i++)
			CHECK(pthread_create(&t[i], &a, one_of_the_crowd, (void *)i) == 0);
		for (intptr_t i = 0; i < CROWD; i++)
			CHECK(pthread_join(t[i], &ret) == 0 && (intptr_t)ret == i);
	}
	printf("sum %ld\n", sum);

	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < DETACHED; i++)
		while (pthread_create(&other, &a, short_lived, NULL) != 0)
			usleep(1000);
	while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) < DETACHED)
		usleep(1000);
	printf("done %d\n", done);

	static char stack[1 << 16] __attribute__((aligned(16)));
	long seen = 0;
	tls.self = &tls;
	for (int i = 0; i < 100; i++) {
		tls.value = 1000 + i;
		child_tid = -1;
		int parent_tid = 0;
		int tid = clone(by_hand, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID, &seen, &parent_tid, &tls, &child_tid);
		CHECK(tid > 0 && parent_tid == tid);
		int v;
		while ((v = __atomic_load_n(&child_tid, __ATOMIC_SEQ_CST)) != 0)
			syscall(SYS_futex, &child_tid, FUTEX_WAIT, v, NULL);
		CHECK(seen == 1000 + i && tls.value == 7);
	}

	// The whole process is replaced while others come, go, and sleep.
	for (int i = 0; i < 5; i++) {
		if ((pid = fork()) == 0) {
			for (int n = 0; n < 10; n++)
				CHECK(pthread_create(&t[n], NULL, wait_in_kernel, NULL) == 0);
			pthread_create(&other, NULL, come_and_go, NULL);
			usleep(1000 * i);
			if (i == 4)
				execl("/proc/self/exe", "manythreads", "44", NULL);
			pthread_create(&other, NULL, exec_now, "33");
			for (;;)
				pause();
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status("execve", status);
	}
	// Two threads execute at once: one of them wins.
	for (int i = 0; i < 5; i++) {
		if ((pid = fork()) == 0) {
			for (int n = 0; n < 4; n++)
				pthread_create(&t[n], NULL, exec_now, "22"); // EAGAIN during an execve
			for (;;)
				pause();
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status("several", status);
	}
	// exit while others start threads.
	for (int i = 0; i < 5; i++) {
		if ((pid = fork()) == 0) {
			for (int n = 0; n < 3; n++)
				pthread_create(&other, NULL, come_and_go, NULL);
			usleep(500 * i);
			_exit(55);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status("exit", status);
	}
	DONE();
}
