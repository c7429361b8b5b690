// The signal frame: extended state, masks and stacks in it, what a handler
// changes in it, frames that are bad and stacks without room for one.
#include "guest.h"
#include <cpuid.h>
#include <setjmp.h>
#include <sys/ucontext.h>

static void set(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags};
	CHECK(sigaction(sig, &sa, NULL) == 0);
}

// The words at the end of the legacy area (struct _fpx_sw_bytes).
struct sw { uint32_t magic1, extended_size; uint64_t xfeatures; uint32_t xstate_size; };
static struct sw *sw_of(void *fp) { return (struct sw *)((char *)fp + 464); }

static int has_avx;
static uint32_t avx_at; // where the upper halves of ymm lie

// ----- extended state

static uint32_t in_mxcsr;
static uint16_t in_fcw;
static uint64_t in_ymm[4];

static void on_state(int sig, siginfo_t *si, void *ctx)
{
	// What the handler itself starts with.
	__asm__ volatile("stmxcsr %0\nfnstcw %1" : "=m"(in_mxcsr), "=m"(in_fcw));
	if (has_avx)
		__asm__ volatile("vmovdqu %%ymm9, %0" : "=m"(in_ymm));
	(void)sig;
	(void)si;
	mcontext_t *m = &((ucontext_t *)ctx)->uc_mcontext;
	struct _libc_fpstate *fp = m->fpregs;
	struct sw *sw = sw_of(fp);
	CHECK(sw->magic1 == 0x46505853);
	CHECK(sw->extended_size == sw->xstate_size + 4);
	CHECK(*(uint32_t *)((char *)fp + sw->xstate_size) == 0x46505845);
	CHECK(((uintptr_t)fp & 63) == 0);
	printf("state: mxcsr %x fcw %x ftw %x st0 %x:%x:%x:%x exp %x\n", fp->mxcsr, fp->cwd, fp->ftw, fp->_st[0].significand[0],
	       fp->_st[0].significand[1], fp->_st[0].significand[2], fp->_st[0].significand[3], fp->_st[0].exponent);
	printf("xmm9 %x %x xfeatures avx %d bv %d\n", fp->_xmm[9].element[0], fp->_xmm[9].element[3], (int)(sw->xfeatures >> 2 & 1),
	       (int)(*(uint64_t *)((char *)fp + 512) >> 2 & 1));
	fp->_xmm[9].element[0] = 0x99990000;
	fp->mxcsr = 0x3f80; // rounding down
	fp->cwd = 0x27f;
	fp->_st[0].significand[3] = 0xc000; // 1.5
	if (has_avx) {
		uint32_t *up = (uint32_t *)((char *)fp + avx_at + 9 * 16);
		printf("ymm9 %x %x %x %x\n", up[0], up[1], up[2], up[3]);
		up[2] = 0x5a5a5a5a;
	}
}

static void states(void)
{
	static const uint32_t y[8] = {1, 2, 3, 4, 0x55, 0x66, 0x77, 0x88};
	uint32_t got[8], mxcsr = 0x1fa0, after;
	uint16_t fcw = 0x33f, fcw2;
	double st;
	long pid = getpid(), tid = gettid(), r = SYS_tgkill;

	set(SIGUSR1, on_state, 0);
	__asm__ volatile("ldmxcsr %0\nfldcw %1\nfld1" : : "m"(mxcsr), "m"(fcw));
	if (has_avx)
		__asm__ volatile("vmovdqu %4, %%ymm9\nsyscall\nvmovdqu %%ymm9, %0\nvzeroupper"
				 : "=m"(got), "+a"(r) : "D"(pid), "S"(tid), "m"(y), "d"((long)SIGUSR1) : "rcx", "r11", "memory", "xmm9");
	else
		__asm__ volatile("movdqu %4, %%xmm9\nsyscall\nmovdqu %%xmm9, %0"
				 : "=m"(got), "+a"(r) : "D"(pid), "S"(tid), "m"(y), "d"((long)SIGUSR1) : "rcx", "r11", "memory", "xmm9");
	__asm__ volatile("stmxcsr %0\nfnstcw %1\nfstpl %2\nfninit" : "=m"(after), "=m"(fcw2), "=m"(st));
	mxcsr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	CHECK(r == 0);
	printf("in the handler: mxcsr %x fcw %x ymm %lx %lx\n", in_mxcsr, in_fcw, in_ymm[0], in_ymm[2]);
	printf("after: mxcsr %x fcw %x st %g xmm %x %x", after, fcw2, st, got[0], got[3]);
	if (has_avx)
		printf(" ymm %x %x %x %x", got[4], got[5], got[6], got[7]);
	printf("\n");
}

// x87 faults come with the next waiting instruction; FIP is where the faulting one was.
extern char x87_at[], x87_wait[];
static void on_x87(int sig, siginfo_t *si, void *ctx)
{
	mcontext_t *m = &((ucontext_t *)ctx)->uc_mcontext;
	printf("x87: signal %d code %d addr %d rip %d trap %d", sig, si->si_code, (char *)si->si_addr == x87_wait, (char *)m->gregs[REG_RIP] == x87_wait, (int)m->gregs[REG_TRAPNO]);
	printf(" fip %ld swd %x\n", (long)(m->fpregs->rip - (uint64_t)x87_at), m->fpregs->swd & 0x85);
	m->fpregs->swd &= ~0xff;
	m->fpregs->cwd |= 0x3f;
}

static void x87(void)
{
	uint16_t fcw = 0x37b; // division by zero unmasked
	set(SIGFPE, on_x87, 0);
	__asm__ volatile("fninit\nfldcw %0\nfld1\nfldz\nx87_at: fdivrp\nx87_wait: fwait\nfninit" : : "m"(fcw));
}

// ----- masks and stacks in the frame

static stack_t seen_stack;
static sigset_t add;
static void on_mask(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	sigset_t now;
	(void)si;
	CHECK(sigprocmask(SIG_BLOCK, NULL, &now) == 0);
	printf("signal %d: saved mask %lx oldmask %llx now %lx flags %lx link %p\n", sig, *(long *)&uc->uc_sigmask,
	       uc->uc_mcontext.gregs[REG_OLDMASK], *(long *)&now, uc->uc_flags, (void *)uc->uc_link);
	printf("trap %lld err %lld cs %llx\n", uc->uc_mcontext.gregs[REG_TRAPNO], uc->uc_mcontext.gregs[REG_ERR], uc->uc_mcontext.gregs[REG_CSGSFS]);
	seen_stack = uc->uc_stack;
	*(uint64_t *)&uc->uc_sigmask |= *(uint64_t *)&add;
}

static char alt[2][1 << 15] __attribute__((aligned(64)));
static void on_stack(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	stack_t now;
	(void)sig;
	(void)si;
	CHECK(sigaltstack(NULL, &now) == 0);
	char *here = __builtin_frame_address(0);
	printf("stack: on %d saved flags %x size %zu, now flags %x size %zu\n", here >= alt[0] && here < alt[1], uc->uc_stack.ss_flags, uc->uc_stack.ss_size,
	       now.ss_flags, now.ss_size);
	if (now.ss_flags == SS_ONSTACK)
		CHECK(sigaltstack(&uc->uc_stack, NULL) == -1 && errno == EPERM);
}

static void on_swap(int sig, siginfo_t *si, void *ctx)
{
	(void)sig;
	(void)si;
	((ucontext_t *)ctx)->uc_stack = (stack_t){.ss_sp = alt[1], .ss_size = 8192};
}

static void masks(void)
{
	sigset_t s, old;

	sigemptyset(&add);
	sigaddset(&add, SIGHUP);
	sigaddset(&add, SIGSEGV);
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	sigaddset(&s, SIGTRAP);
	CHECK(sigprocmask(SIG_SETMASK, &s, &old) == 0);
	struct sigaction sa = {.sa_sigaction = on_mask, .sa_flags = SA_SIGINFO};
	sigaddset(&sa.sa_mask, SIGBUS);
	sigaddset(&sa.sa_mask, SIGTERM);
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	raise(SIGUSR1);
	CHECK(sigprocmask(SIG_SETMASK, &old, &s) == 0);
	printf("mask after %lx, stack flags %x\n", *(long *)&s, seen_stack.ss_flags);

	// The stack that the handler finds, and what it may change.
	stack_t ss = {.ss_sp = alt[0], .ss_size = sizeof alt[0]}, now;
	for (int autodisarm = 0; autodisarm < 2; autodisarm++) {
		ss.ss_flags = autodisarm ? (int)(1u << 31) : 0;
		CHECK(sigaltstack(&ss, NULL) == 0);
		set(SIGUSR1, on_stack, SA_ONSTACK);
		raise(SIGUSR1);
		CHECK(sigaltstack(NULL, &now) == 0);
		printf("stack after: flags %x size %zu\n", now.ss_flags, now.ss_size);
		// From the normal stack a handler may install another one by its frame.
		set(SIGUSR1, on_swap, 0);
		raise(SIGUSR1);
		CHECK(sigaltstack(NULL, &now) == 0 && now.ss_sp == alt[1] && now.ss_size == 8192);
		ss.ss_flags = SS_DISABLE;
		CHECK(sigaltstack(&ss, NULL) == 0 && sigaltstack(NULL, &now) == 0);
		printf("disabled: flags %x size %zu\n", now.ss_flags, now.ss_size);
	}
	ss.ss_flags = 0x4000;
	CHECK(sigaltstack(&ss, NULL) == -1 && errno == EINVAL);
	ss.ss_flags = 0;
	ss.ss_size = 2047;
	CHECK(sigaltstack(&ss, NULL) == -1 && errno == ENOMEM);
}

// ----- no room, bad frames

static sigjmp_buf env;
static volatile int depth, got_code, got_sig, variant;
static void on_segv(int sig, siginfo_t *si, void *ctx)
{
	got_sig = sig;
	got_code = si->si_code;
	CHECK(si->si_addr == NULL || si->si_code != SI_KERNEL);
	(void)ctx;
	siglongjmp(env, 1);
}

static void nest(int sig, siginfo_t *si, void *ctx)
{
	(void)si;
	(void)ctx;
	depth++;
	raise(sig);
	printf("not reached\n");
}

static void nothing(int sig, siginfo_t *si, void *ctx) { (void)sig; (void)si; (void)ctx; depth++; }

static void spoil(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	char *fp = (char *)uc->uc_mcontext.fpregs;
	(void)sig;
	(void)si;
	switch (variant) {
	case 0: uc->uc_mcontext.fpregs = (void *)64; break;
	case 1: uc->uc_mcontext.fpregs = (void *)(fp + 4); break;
	case 2: *(uint32_t *)(fp + 24) = 0xff000000; break; // MXCSR
	case 3: *(uint64_t *)(fp + 512) |= 1ull << 61; break; // XSTATE_BV
	case 4: *(uint64_t *)(fp + 520) = 1; break; // XCOMP_BV
	case 5: uc->uc_mcontext.fpregs = NULL; break; // initial state
	case 6: sw_of(fp)->magic1 = 0; break; // no extended state
	case 7: sw_of(fp)->extended_size = 1 << 20; break;
	case 8: *(uint32_t *)(fp + sw_of(fp)->xstate_size) = 0; break; // the magic word at the end
	}
}

static char small[3 * 4096] __attribute__((aligned(4096)));

static void bad(void)
{
	// Handlers nest until the alternate stack is full: SIGSEGV, which finds no room there either, kills.
	pid_t pid;
	int status;
	for (int both = 0; both < 2; both++) {
		if ((pid = fork()) == 0) {
			stack_t ss = {.ss_sp = small + 4096, .ss_size = 8192};
			CHECK(sigaltstack(&ss, NULL) == 0);
			memset(small, 0x5a, 4096);
			set(SIGUSR1, nest, SA_ONSTACK | SA_NODEFER);
			set(SIGSEGV, on_segv, both ? SA_ONSTACK : 0);
			raise(SIGUSR1);
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status(both ? "nested, handled there" : "nested", status);
	}
	// With a SIGSEGV handler on a stack with room: a signal for which there is none turns into it.
	stack_t ss = {.ss_sp = alt[0], .ss_size = sizeof alt[0]};
	CHECK(sigaltstack(&ss, NULL) == 0);
	set(SIGSEGV, on_segv, SA_ONSTACK);
	set(SIGUSR1, nothing, 0);
	if (sigsetjmp(env, 1) == 0) {
		long r = SYS_tgkill;
		__asm__ volatile("mov %%rsp, %%rbx\nmov $64, %%esp\nsyscall\nmov %%rbx, %%rsp" : "+a"(r) : "D"((long)getpid()), "S"((long)gettid()), "d"((long)SIGUSR1) : "rbx", "rcx", "r11", "memory");
		printf("no room not noticed\n");
	}
	printf("no room: signal %d code %d depth %d\n", got_sig, got_code, depth);
	// No restorer.
	struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } ksa = {(void *)nothing, SA_SIGINFO, NULL, 0};
	CHECK(syscall(SYS_rt_sigaction, SIGUSR1, &ksa, NULL, 8) == 0);
	got_sig = 0;
	if (sigsetjmp(env, 1) == 0)
		raise(SIGUSR1);
	printf("no restorer: signal %d code %d\n", got_sig, got_code);
	// rt_sigreturn far from any frame.
	got_sig = 0;
	if (sigsetjmp(env, 1) == 0)
		__asm__ volatile("mov $64, %%esp\nmov $15, %%eax\nsyscall\nud2" : : : "rax", "rbx", "memory");
	printf("no frame: signal %d code %d\n", got_sig, got_code);
	set(SIGUSR2, spoil, 0);
	for (variant = 0; variant < 9; variant++) {
		got_sig = got_code = 0;
		if (sigsetjmp(env, 1) == 0)
			raise(SIGUSR2);
		printf("variant %d: signal %d code %d\n", variant, got_sig, got_code);
	}
	// And without a handler for it.
	for (variant = 0; variant < 4; variant += 2) {
		if ((pid = fork()) == 0) {
			signal(SIGSEGV, SIG_DFL);
			raise(SIGUSR2);
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status("variant", status);
	}
}

// The main stack grows for a signal frame.
__attribute__((noinline)) static int grow(int n)
{
	volatile char pad[700];
	pad[0] = n;
	raise(SIGUSR1);
	return n ? grow(n - 1) + pad[0] : 0;
}

int main(void)
{
	unsigned a, b, c, d;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (__get_cpuid(1, &a, &b, &c, &d) && c >> 28 & 1 && __get_cpuid_count(13, 2, &a, &b, &c, &d)) {
		has_avx = 1;
		avx_at = b;
	}
	states();
	x87();
	masks();
	set(SIGUSR1, nothing, 0);
	depth = 0;
	grow(400);
	printf("grown %d\n", depth);
	depth = 0;
	bad();
	DONE();
}
