// Green threads that are preempted: the handler of a timer's signal, of raise and of faults leaves its thread by swapcontext,
// and comes back to it later. With and without a signal stack for each, which SS_AUTODISARM lets the handler replace.
#include "guest.h"
#include <sys/time.h>
#include <ucontext.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

enum { TASKS = 5, STACK = 1 << 16, STEPS = 60000 };

static struct task {
	ucontext_t ctx;
	stack_t signals;
	char *stack;
	uint64_t sum;
	double real;
	int done, faults;
} tasks[TASKS];

static ucontext_t idle;
static volatile int current, switches;
static int by_timer, on_stacks;
static volatile int *volatile bad = (int *)8;
static char readable[4096] __attribute__((aligned(4096)));

// away lets another task run; it returns when this one's turn comes again.
static void away(void)
{
	int me = current, next = me;
	do
		next = (next + 1) % TASKS;
	while (tasks[next].done && next != me);
	switches++;
	if (next == me)
		return;
	current = next;
	CHECK(swapcontext(&tasks[me].ctx, &tasks[next].ctx) == 0);
	if (on_stacks) { // the task that ran before has left its own
		stack_t was;
		CHECK(sigaltstack(&tasks[me].signals, &was) == 0);
	}
}

// on is the handler of a switch.
static void on(int sig, siginfo_t *si, void *arg)
{
	ucontext_t *uc = arg;
	int me = current, here = errno;
	char *sp = __builtin_frame_address(0);
	struct task *t = &tasks[me];
	CHECK(on_stacks == (sp >= (char *)t->signals.ss_sp && sp < (char *)t->signals.ss_sp + STACK));
	CHECK(on_stacks ? uc->uc_stack.ss_sp == t->signals.ss_sp && uc->uc_stack.ss_flags == (int)SS_AUTODISARM : uc->uc_stack.ss_size == 0);
	if (sig == SIGSEGV) {
		CHECK(si->si_addr == (void *)bad);
		uc->uc_mcontext.gregs[REG_RAX] = (greg_t)readable; // the load is done again, from there
		t->faults++;
	}
	away();
	CHECK(current == me);
	errno = here;
}

// work computes with everything that a switch must keep: general registers, flags, x87, vectors.
static void work(int self)
{
	struct task *t = &tasks[self];
	uint64_t state = self, sum = 0;
	long double slow = 1;
	double fast = 1;

	for (int i = 0; i < STEPS; i++) {
		sum = sum * 31 + mix(&state);
		slow = slow * 1.0000001L + i;
		fast = fast * 1.0000001 + i;
		__asm__ volatile("stc\n\tadc $0, %0" : "+r"(sum) : : "cc");
		if (!by_timer && i % 600 == 0)
			raise(SIGUSR1);
		if (i % 3000 == 0) {
			int v, *from = (int *)bad;
			__asm__ volatile("mov (%1), %0" : "=r"(v), "+a"(from) : : "memory");
			CHECK(v == 0 && from == (int *)readable);
		}
	}
	t->sum = sum;
	t->real = (double)slow + fast;
	t->done = 1;
	for (int i = 0; i < TASKS; i++)
		if (!tasks[i].done) {
			sigset_t all;
			sigfillset(&all);
			CHECK(sigprocmask(SIG_SETMASK, &all, NULL) == 0); // the others bring their own masks
			current = i;
			setcontext(&tasks[i].ctx);
		}
	setcontext(&idle);
}

// begin is where a task starts, on its stack.
static void begin(int self)
{
	if (on_stacks)
		CHECK(sigaltstack(&tasks[self].signals, NULL) == 0);
	sigset_t none;
	sigemptyset(&none);
	CHECK(sigprocmask(SIG_SETMASK, &none, NULL) == 0);
	work(self);
}

static void play(const char *name, int sig, int stacks)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | (stacks ? SA_ONSTACK : 0)};
	sigset_t all, before;

	by_timer = sig == SIGALRM;
	on_stacks = stacks;
	switches = 0;
	// No switch within a switch.
	sigfillset(&sa.sa_mask);
	sigdelset(&sa.sa_mask, SIGABRT);
	CHECK(sigaction(sig, &sa, NULL) == 0 && sigaction(SIGSEGV, &sa, NULL) == 0);
	sigfillset(&all);
	for (int i = 0; i < TASKS; i++) {
		struct task *t = &tasks[i];
		t->done = t->faults = 0;
		CHECK(getcontext(&t->ctx) == 0);
		t->ctx.uc_stack.ss_sp = t->stack;
		t->ctx.uc_stack.ss_size = STACK;
		t->ctx.uc_link = NULL;
		t->ctx.uc_sigmask = all;
		makecontext(&t->ctx, (void (*)(void))begin, 1, i);
	}
	struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
	// A handler that runs here would leave this context for a task's.
	CHECK(sigprocmask(SIG_SETMASK, &all, &before) == 0);
	if (by_timer)
		CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	current = 0;
	CHECK(swapcontext(&idle, &tasks[0].ctx) == 0);
	if (by_timer)
		CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
	signal(sig, SIG_IGN); // what is pending goes
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
	for (int i = 0; i < TASKS; i++)
		printf("%s %d: task %d sum %lx real %.3f faults %d\n", name, stacks, i, tasks[i].sum, tasks[i].real, tasks[i].faults);
	if (!by_timer)
		printf("switches %d\n", switches);
	CHECK(switches > 2 * TASKS);
	stack_t disable = {.ss_flags = SS_DISABLE};
	CHECK(sigaltstack(&disable, NULL) == 0);
}

int main(void)
{
	for (int i = 0; i < TASKS; i++) {
		tasks[i].stack = malloc(STACK);
		tasks[i].signals = (stack_t){.ss_sp = malloc(STACK), .ss_size = STACK, .ss_flags = SS_AUTODISARM};
	}
	for (int stacks = 0; stacks < 2; stacks++) {
		play("raise", SIGUSR1, stacks);
		play("timer", SIGALRM, stacks);
	}
	DONE();
}
