// Threads that signal each other while each computes a checksum: nothing is
// lost, nothing comes out of order, every checksum is right. Half of the
// handlers run on alternate stacks, some signals come in handlers.
#include "guest.h"
#include <pthread.h>
#include <ucontext.h>

enum { THREADS = 8 };

static pid_t tids[THREADS];
static pthread_t threads[THREADS];
static long per_pair; // signals from each thread to each other
static __thread int self;
static volatile long received[THREADS][THREADS]; // [to][from]
static volatile long merged[THREADS], disorder, strange, done;
static pthread_barrier_t barrier;


static void on_rt(int sig, siginfo_t *si, void *ctx)
{
	int from = si->si_value.sival_int & 7;
	long number = si->si_value.sival_int >> 3;
	greg_t *r = ((ucontext_t *)ctx)->uc_mcontext.gregs;

	if (received[self][from] != number || sig != SIGRTMIN + 1 + self % 2)
		__atomic_fetch_add(&disorder, 1, __ATOMIC_RELAXED);
	received[self][from] = number + 1;
	// No address of the translation shows.
	if ((uint64_t)r[REG_RIP] - 0x40000000 < 0x30000000 || (uint64_t)r[REG_RCX] - 0x40000000 < 0x30000000)
		__atomic_fetch_add(&strange, 1, __ATOMIC_RELAXED);
}

static void on_usr(int sig, siginfo_t *si, void *ctx)
{
	(void)sig;
	(void)si;
	(void)ctx;
	merged[self]++;
}

static int send_to(int to, long number)
{
	siginfo_t si = {.si_signo = SIGRTMIN + 1 + to % 2, .si_code = SI_QUEUE};
	si.si_pid = getpid();
	si.si_value.sival_int = (int)(number << 3 | self);
	if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tids[to], si.si_signo, &si) == 0)
		return 1;
	CHECK(errno == EAGAIN); // RLIMIT_SIGPENDING
	return 0;
}

__attribute__((noinline)) static uint64_t leaf(uint64_t v, int n) { return n > 0 ? leaf(v * 31 + n, n - 1) ^ v : v; }

static void *run(void *arg)
{
	static char stacks[THREADS][1 << 15];
	self = (int)(intptr_t)arg;
	tids[self] = gettid();
	if (self % 2) {
		stack_t ss = {.ss_sp = stacks[self], .ss_size = sizeof stacks[self]};
		CHECK(sigaltstack(&ss, NULL) == 0);
	}
	pthread_barrier_wait(&barrier);
	uint64_t state = 42, sum = 0;
	long sent[THREADS] = {0}, left = per_pair * (THREADS - 1), rounds = per_pair * (THREADS - 1);
	for (long i = 0; i < rounds || left > 0; i++) {
		if (i < rounds)
			sum += leaf(mix(&state), i % 20);
		if (left > 0) {
			int to = (self + 1 + i % (THREADS - 1)) % THREADS;
			if (sent[to] < per_pair && send_to(to, sent[to])) {
				sent[to]++;
				left--;
			}
			if (i % 16 == 0)
				pthread_kill(threads[to], SIGUSR1);
		}
	}
	for (int from = 0; from < THREADS; from++)
		while (from != self && received[self][from] < per_pair)
			;
	__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
	while (done < THREADS) // handlers of the others still need this thread
		usleep(1000);
	return (void *)sum;
}

int main(int argc, char **argv)
{
	long total = argc > 1 ? atol(argv[1]) : 20000;
	per_pair = total / (THREADS * (THREADS - 1));
	struct sigaction sa = {.sa_sigaction = on_rt, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
	CHECK(sigaction(SIGRTMIN + 1, &sa, NULL) == 0);
	CHECK(sigaction(SIGRTMIN + 2, &sa, NULL) == 0);
	sa.sa_sigaction = on_usr;
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (int i = 1; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, run, (void *)(intptr_t)i) == 0);
	threads[0] = pthread_self();
	void *sum = run(NULL), *other;
	long count = 0, few = 0;
	for (int i = 1; i < THREADS; i++) {
		CHECK(pthread_join(threads[i], &other) == 0);
		CHECK(other == sum);
	}
	for (int to = 0; to < THREADS; to++) {
		few += merged[to] == 0;
		for (int from = 0; from < THREADS; from++)
			count += received[to][from];
	}
	printf("sum %lx received %ld lost %ld disorder %ld strange %ld without %ld\n", (long)sum, count, per_pair * THREADS * (THREADS - 1) - count, disorder, strange, few);
	DONE();
}
