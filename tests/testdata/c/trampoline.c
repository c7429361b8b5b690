// Functions inside functions: the compiler puts code on the stack, which is
// executable as a whole, however deep it is.
#include "guest.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

static long apply(int (*f)(int), int n)
{
	long sum = 0;
	for (int i = 0; i < n; i++)
		sum += f(i);
	return sum;
}

static int compare(const void *a, const void *b, int (*f)(int)) { return f(*(int *)a) - f(*(int *)b); }

// deep calls itself with a frame that has a function of its own.
static long deep(int depth, int (*outer)(int))
{
	volatile char room[4000];
	int inner(int x) { return outer ? outer(x) + depth : x; }
	room[depth % sizeof room] = 1;
	if (depth == 0)
		return apply(inner, 20);
	return deep(depth - 1, depth % 50 ? outer : inner) + apply(inner, 2) + room[depth % sizeof room];
}

static void *run(void *arg) { return (void *)deep((int)(intptr_t)arg, NULL); }

// The three kinds of indirect branches, all of which go to code on the stack and elsewhere.
int by_call(int (*f)(int), int x);
int by_jump(int (*f)(int), int x);
int by_return(int (*f)(int), int x);
asm(".text\n"
    "by_call: mov %rdi,%rax; mov %esi,%edi; sub $8,%rsp; call *%rax; add $8,%rsp; ret\n"
    "by_jump: mov %rdi,%rax; mov %esi,%edi; jmp *%rax\n"
    "by_return: push %rdi; mov %esi,%edi; mov $0x123456789abcdef,%rcx; ret\n");

static sigjmp_buf out;
static void *volatile wanted;
static volatile int faults;

static void fault(int sig, siginfo_t *si, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	CHECK(sig == SIGSEGV && si->si_addr == wanted && (void *)r[REG_RIP] == wanted && r[REG_RDI] == 5);
	faults++;
	siglongjmp(out, 1);
}

static int at_home(int x) { return x + 1; }

// A branch that has gone to the stack goes where nothing can be executed, also at addresses with the same low bits.
static void branches(void)
{
	int (*kinds[])(int (*)(int), int) = {by_call, by_jump, by_return};
	volatile int one = 1;
	int inner(int x) { return x + one; }
	int (*volatile stack)(int) = inner;
	uintptr_t low = (uintptr_t)stack & 0xffff;
	void *nowhere[] = {NULL, (void *)0x10, (void *)low, (void *)(low + 0x10000), (void *)(0x555500000000 + low), (void *)0xffff, NULL};
	struct sigaction sa = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
	long sum = 0;
	CHECK(sigaction(SIGSEGV, &sa, NULL) == 0);
	for (int round = 0; round < 3; round++)
		for (int k = 0; k < 3; k++) {
			for (int i = 0; i < 100; i++)
				sum += kinds[k](round ? stack : at_home, i) + kinds[k](at_home, i);
			for (unsigned i = 0; i < sizeof nowhere / sizeof *nowhere; i++) {
				wanted = nowhere[i];
				if (sigsetjmp(out, 1) == 0)
					kinds[k]((int (*)(int))wanted, 5);
			}
		}
	printf("branches %ld, %d faults\n", sum, faults);
}

int main(void)
{
	int list[200], factor = 7;
	int scaled(int x) { return x * factor % 31; }
	int order(const void *a, const void *b) { return compare(a, b, scaled); }
	pthread_t t;
	void *r;

	for (int i = 0; i < 200; i++)
		list[i] = i;
	qsort(list, 200, sizeof *list, order);
	printf("sorted %d %d\n", scaled(list[0]), scaled(list[199]));
	printf("apply %ld\n", apply(scaled, 200000));
	branches();
	printf("deep %ld\n", deep(1000, NULL));
	CHECK(pthread_create(&t, NULL, run, (void *)100) == 0 && pthread_join(t, &r) == 0);
	printf("thread %ld\n", (long)r);
	DONE();
}
