// Alternate stacks, nested handlers, jumps out of handlers, waiting for
// signals, stack overflow that is survived.
#include "guest.h"
#include <poll.h>
#include <setjmp.h>
#include <sys/select.h>
#include <ucontext.h>

static sigjmp_buf env;
static volatile int *volatile bad = (int *)16;
static volatile int limit = 1 << 30;
static volatile int depth, deepest, calls;
static char stack[1 << 16], *caught_on;

static int on_stack(void *p) { return (char *)p >= stack && (char *)p < stack + sizeof stack; }

static void jump(int sig)
{
	caught_on = __builtin_frame_address(0);
	siglongjmp(env, sig);
}

static void nest(int sig)
{
	if (++depth > deepest)
		deepest = depth;
	calls++;
	if (depth < 5 && calls < 20)
		raise(sig == SIGUSR1 ? SIGUSR2 : SIGUSR1);
	depth--;
}

static void count(int sig) { (void)sig; calls++; }

__attribute__((noinline)) static int overflow(int n)
{
	volatile char big[4096];
	big[n % 4096] = n;
	return n < limit ? overflow(n + 1) + big[0] : 0;
}

static void set(int sig, void (*fn)(int), int flags)
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};
	CHECK(sigaction(sig, &sa, NULL) == 0);
}

static void alarm_ms(int ms)
{
	timer_t t;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	struct itimerspec its = {.it_value.tv_nsec = ms * 1000000};
	CHECK(timer_create(CLOCK_MONOTONIC, &ev, &t) == 0);
	CHECK(timer_settime(t, 0, &its, NULL) == 0);
}

static ucontext_t main_ctx, co_ctx;
static int co_steps;
static void co(int a, int b)
{
	for (int i = 0; i < 1000; i++) {
		co_steps += a + b;
		swapcontext(&co_ctx, &main_ctx);
	}
}

int main(void)
{
	// Out of handlers by siglongjmp, which restores the mask.
	set(SIGSEGV, jump, 0);
	set(SIGFPE, jump, 0);
	for (volatile int i = 0; i < 200; i++) {
		int r = sigsetjmp(env, 1);
		if (r == 0) {
			if (i % 2)
				*bad = 1;
			else
				__asm__ volatile("xor %%edx, %%edx\nxor %%ecx, %%ecx\ndiv %%ecx" : : : "eax", "ecx", "edx");
		}
		CHECK(r == (i % 2 ? SIGSEGV : SIGFPE));
	}
	sigset_t mask, old;
	CHECK(sigprocmask(SIG_BLOCK, NULL, &mask) == 0 && !sigismember(&mask, SIGSEGV));

	// An overflown stack, handled on another one.
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack}, was;
	CHECK(sigaltstack(&ss, NULL) == 0);
	set(SIGSEGV, jump, SA_ONSTACK);
	for (volatile int i = 0; i < 3; i++) {
		int r = sigsetjmp(env, 1);
		if (r == 0)
			overflow(0);
		CHECK(r == SIGSEGV && on_stack(caught_on));
	}
	CHECK(sigaltstack(NULL, &was) == 0 && was.ss_sp == stack && was.ss_flags == 0);
	printf("survived\n");

	// Nested handlers, with and without the signal blocked in its own handler.
	set(SIGUSR1, nest, 0);
	set(SIGUSR2, nest, 0);
	raise(SIGUSR1);
	printf("nested %d calls %d\n", deepest, calls);
	deepest = calls = 0;
	set(SIGUSR1, nest, SA_NODEFER | SA_ONSTACK);
	set(SIGUSR2, nest, SA_NODEFER | SA_ONSTACK);
	raise(SIGUSR1);
	printf("nodefer %d calls %d\n", deepest, calls);

	// A handler's mask.
	struct sigaction sa = {.sa_handler = nest};
	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, SIGUSR2);
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	deepest = calls = 0;
	raise(SIGUSR1);
	printf("masked %d calls %d\n", deepest, calls);

	// A blocked synchronous fault kills, even with a handler.
	pid_t pid = fork();
	if (pid == 0) {
		sigfillset(&mask);
		sigprocmask(SIG_BLOCK, &mask, NULL);
		*bad = 1;
		_exit(0);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("blocked fault", status);
	if ((pid = fork()) == 0) {
		signal(SIGSEGV, SIG_IGN);
		*bad = 1;
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("ignored fault", status);

	// Calls that wait for a signal under a mask of their own.
	set(SIGALRM, count, 0);
	calls = 0;
	sigemptyset(&mask);
	sigaddset(&mask, SIGALRM);
	CHECK(sigprocmask(SIG_BLOCK, &mask, &old) == 0);
	alarm_ms(20);
	CHECK(sigsuspend(&old) == -1 && errno == EINTR && calls == 1);
	alarm_ms(20);
	CHECK(ppoll(NULL, 0, NULL, &old) == -1 && errno == EINTR && calls == 2);
	alarm_ms(20);
	CHECK(pselect(0, NULL, NULL, NULL, NULL, &old) == -1 && errno == EINTR && calls == 3);
	raise(SIGALRM);
	CHECK(calls == 3);
	// One that is pending already.
	CHECK(sigsuspend(&old) == -1 && calls == 4);
	struct timespec ts = {0, 1000000};
	CHECK(sigtimedwait(&mask, NULL, &ts) == -1 && errno == EAGAIN);
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
	printf("waited %d\n", calls);

	// nanosleep tells what is left.
	alarm_ms(20);
	struct timespec want = {30, 0}, left;
	CHECK(nanosleep(&want, &left) == -1 && errno == EINTR && left.tv_sec == 29);

	// Contexts that take turns.
	static char co_stack[1 << 15];
	CHECK(getcontext(&co_ctx) == 0);
	co_ctx.uc_stack.ss_sp = co_stack;
	co_ctx.uc_stack.ss_size = sizeof co_stack;
	co_ctx.uc_link = &main_ctx;
	makecontext(&co_ctx, (void (*)(void))co, 2, 3, 4);
	for (int i = 0; i < 1001; i++)
		CHECK(swapcontext(&main_ctx, &co_ctx) == 0);
	printf("contexts %d\n", co_steps);
	DONE();
}
