// Returns and jumps that no call was made for, and calls that fail: what is left where the return address was, or would have been.
#include "code.h"
#include <ucontext.h>

int leap(int a, int b, int c, int (*to)(int));             // jumps by rcx, whose value it was given
long back_to(void *addr, long rcx);                        // returns to addr with rcx, and rsp as before its own return
long pop_to(void *addr, long rcx);                         // the same by ret 16
long call_on(void *stack, void *to, long through);         // calls with another stack pointer, directly or not
extern char called[], called_at[], called_through_at[];
asm(".text\n"
    "leap: jmp *%rcx\n"
    "back_to: mov %rsi,%rcx; push %rdi; ret\n"
    "pop_to: mov %rsi,%rcx; pop %rax; push %rax; push %rax; push %rax; push %rdi; ret $16\n"
    "call_on: push %rbx; mov %rsp,%rbx; mov %rdi,%rsp; test %rdx,%rdx; jnz called_through_at\n"
    "called_at: call called; jmp 1f\n"
    "called_through_at: call *%rsi\n"
    "1: mov %rbx,%rsp; pop %rbx; ret\n"
    "called: mov $77,%eax; ret\n");

static int one_more(int x) { return x + 1; }
static long seventeen(void) { return 17; }

static sigjmp_buf out;
static volatile int faults;
static int data;
static void *volatile at, *volatile address, *volatile stack;

static void fault(int sig, siginfo_t *si, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	int good = sig == SIGSEGV && (void *)r[REG_RIP] == at && si->si_addr == address && (stack == NULL || (void *)r[REG_RSP] == stack);
	CHECK(good);
	if (!good)
		_exit(1);
	faults++;
	siglongjmp(out, 1);
}

#define FAULTS(expr, rip, addr) do { \
	at = (void *)(rip), address = (void *)(addr); \
	if (sigsetjmp(out, 1) == 0) { \
		expr; \
		CHECK(!"reached"); \
	} \
} while (0)

static void nowhere(void)
{
	// rcx is what a missed branch would have there: an address that can be executed, one that can't, none.
	long left[] = {(long)one_more, 0x123456789abc, 0, 5};
	void *to[] = {NULL, (void *)8, (void *)0x70000000000, &data};
	for (unsigned i = 0; i < sizeof left / sizeof *left; i++)
		for (unsigned k = 0; k < sizeof to / sizeof *to; k++) {
			FAULTS(back_to(to[k], left[i]), to[k], to[k]);
			FAULTS(pop_to(to[k], left[i]), to[k], to[k]);
		}
	for (unsigned k = 0; k < sizeof to / sizeof *to; k++)
		FAULTS(leap(1, 2, 3, (int (*)(int))to[k]), to[k], to[k]);
	CHECK(leap(41, 2, 3, one_more) == 42);
	CHECK(back_to(seventeen, 0) == 17 && pop_to(seventeen, (long)one_more) == 17);
}

// A call that has no room for the return address.
static void full(void)
{
	unsigned char *p = map(3 * 4096, PROT_READ | PROT_WRITE);
	CHECK(mprotect(p, 4096, PROT_READ) == 0);
	CHECK(call_on(p + 8192, called, 0) == 77 && call_on(p + 8192, called, 1) == 77);
	stack = p + 4096;
	FAULTS(call_on(stack, called, 0), called_at, p + 4088);
	FAULTS(call_on(stack, called, 1), called_through_at, p + 4088);
	stack = NULL;
	FAULTS(call_on(p + 8192, &data, 1), &data, &data);
}

// Code at addresses that no table covers.
static void on_stack(void)
{
	unsigned char code[64] __attribute__((aligned(64)));
	uintptr_t page = (uintptr_t)code & -4096ul;
	CHECK(mprotect((void *)page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	memcpy(code, "\x8d\x47\x02\xc3", 4); // lea eax,[rdi+2] ; ret
	for (int i = 0; i < 100; i++)
		CHECK(leap(i, 0, 0, (int (*)(int))(void *)code) == i + 2 && ((fn)(void *)code)(i) == i + 2);
	memcpy(code, "\xff\xd6\xc3", 3); // call rsi ; ret
	for (int i = 0; i < 100; i++)
		CHECK(((int (*)(int, void *))(void *)code)(i, one_more) == i + 1);
}

// Stacks that nobody is on for a long time.
enum { COROUTINES = 8, ROUNDS = 20000 };
static ucontext_t home, ctx[COROUTINES];
static long total;

static int descend(int depth, int id)
{
	if (depth == 0) {
		total += id;
		CHECK(swapcontext(&ctx[id], &home) == 0);
		return id;
	}
	volatile int r = descend(depth - 1, id);
	return r + 1;
}

static void coroutine(int id)
{
	for (;;)
		total += descend(20, id);
}

static void coroutines(void)
{
	for (int i = 0; i < COROUTINES; i++) {
		CHECK(getcontext(&ctx[i]) == 0);
		ctx[i].uc_stack.ss_sp = map(65536, PROT_READ | PROT_WRITE);
		ctx[i].uc_stack.ss_size = 65536;
		makecontext(&ctx[i], (void (*)(void))coroutine, 1, i);
	}
	CHECK(swapcontext(&home, &ctx[0]) == 0); // waits to the end
	for (int round = 0; round < ROUNDS; round++)
		for (int i = 1; i < COROUTINES; i++)
			CHECK(swapcontext(&home, &ctx[i]) == 0);
	CHECK(swapcontext(&home, &ctx[0]) == 0);
	printf("coroutines %ld\n", total);
}

static void jumps(void)
{
	static jmp_buf first;
	volatile int n = 0;
	if (setjmp(first) < 1000 && ++n < 20000)
		longjmp(first, n % 1000);
	printf("jumps %d\n", n);
}

int main(void)
{
	struct sigaction sa = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t ss = {.ss_sp = map(65536, PROT_READ | PROT_WRITE), .ss_size = 65536};
	CHECK(sigaltstack(&ss, NULL) == 0 && sigaction(SIGSEGV, &sa, NULL) == 0);
	nowhere();
	full();
	on_stack();
	coroutines();
	jumps();
	printf("%d faults\n", faults);
	DONE();
}
