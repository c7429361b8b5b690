// Synchronous faults: what the handler is told (the original address, every
// register, flags, error code), and that what it changes takes effect.
#include "guest.h"
#include <ucontext.h>

// Each fault is a function NAME with the faulting instruction at NAME_at; the
// handler continues at NAME_on. All general registers hold known values.
#define FAULT(name, setup, insn)                                               \
	void name(void);                                                       \
	extern char name##_at[], name##_on[];                                  \
	__asm__(".text\n.globl " #name "\n" #name ":\n"                       \
		"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n" \
		"mov $0x1111, %eax\nmov $0x2222, %ebx\nmov $0x3333, %ecx\nmov $0x4444, %edx\n" \
		"mov $0x5555, %esi\nmov $0x6666, %edi\nmov $0x7777, %ebp\nmov $0x8888, %r8d\n" \
		"mov $0x9999, %r9d\nmov $0xaaaa, %r10d\nmov $0xbbbb, %r11d\nmov $0xcccc, %r12d\n" \
		"mov $0xdddd, %r13d\nmov $0xeeee, %r14d\nmov $0xffff, %r15d\n"  \
		"movq %r15, %xmm7\n"                                            \
		setup "\nstc\n"                                                 \
		#name "_at:\n" insn "\n"                                        \
		#name "_on:\n"                                                  \
		"mov %rax, seen(%rip)\nmov %rcx, seen+8(%rip)\nmov %r15, seen+16(%rip)\nmovq %xmm7, seen+24(%rip)\n" \
		"setc seen+32(%rip)\n"                                          \
		"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

uint64_t seen[5];
char page[8192] __attribute__((aligned(4096)));

FAULT(f_read, "", "mov 0x10, %rax")
FAULT(f_write, "", "movl %ecx, 0x18")
FAULT(f_rodata, "", "movb $1, f_rodata(%rip)")
FAULT(f_protected, "", "mov %rdx, page+8(%rip)")
FAULT(f_noncanonical, "movabs $0x1234567800000000, %rax", "mov (%rax), %ecx")
FAULT(f_divide, "xor %ecx, %ecx", "div %ecx")
FAULT(f_overflow, "mov $1, %ecx", "idiv %ecx")
FAULT(f_ud2, "", "ud2")
FAULT(f_int3, "", "int3")
FAULT(f_hlt, "", "hlt")
FAULT(f_jump, "xor %eax, %eax", "jmp *%rax")
FAULT(f_jumpdata, "lea page+4096(%rip), %rax", "jmp *%rax")
FAULT(f_jumpbad, "movabs $0x2000000000000001, %rax", "jmp *%rax")
FAULT(f_call, "sub $8, %rsp\nmov $16, %eax", "add $8, %rsp\ncall *%rax")
FAULT(f_callmem, "", "call *0x20")
FAULT(f_ret, "mov $24, %eax\npush %rax", "ret")
FAULT(f_string, "lea page(%rip), %rdi\nmov $64, %ecx\ncld", "rep stosb")
FAULT(f_misaligned, "lea page+4097(%rip), %rax", "movaps (%rax), %xmm1")
FAULT(f_sse, "movl $0, -4(%rsp)\nldmxcsr -4(%rsp)\nxorps %xmm1, %xmm1", "divps %xmm1, %xmm1")
FAULT(f_privileged, "", "mov %cr3, %rax")
FAULT(f_port, "", "in $0x80, %al")
FAULT(f_int, "", "int $0x99")

static const struct {
	const char *name;
	void (*run)(void);
	char *at, *on;
} faults[] = {
#define F(n) {#n, n, n##_at, n##_on}
	F(f_read), F(f_write), F(f_rodata), F(f_protected), F(f_noncanonical), F(f_divide), F(f_overflow), F(f_ud2),
	F(f_int3), F(f_hlt), F(f_jump), F(f_jumpdata), F(f_jumpbad), F(f_call), F(f_callmem), F(f_ret), F(f_string),
	F(f_misaligned), F(f_sse), F(f_privileged), F(f_port), F(f_int),
};
static volatile int current;
uint64_t expect_rsp;

// where prints an address so that it is the same wherever the program lies.
static void where(const char *what, uint64_t v)
{
	uint64_t at = (uint64_t)faults[current].at, data = (uint64_t)page;

	if (v - at < 64 || at - v < 64)
		printf(" %s=at%+ld", what, (long)(v - at));
	else if (v - data < sizeof page)
		printf(" %s=page+%lu", what, v - data);
	else if (v - (uint64_t)faults[current].run < 256)
		printf(" %s=run+%lu", what, v - (uint64_t)faults[current].run);
	else
		printf(" %s=%#lx", what, v);
}

static void on(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	greg_t *r = uc->uc_mcontext.gregs;

	printf("%s: signal %d code %d", faults[current].name, sig, si->si_code);
	where("addr", (uint64_t)si->si_addr);
	where("rip", r[REG_RIP]);
	printf(" trap %lld err %llx", r[REG_TRAPNO], r[REG_ERR]);
	if (r[REG_TRAPNO] == 14)
		where("cr2", r[REG_CR2]);
	where("\n  rax", r[REG_RAX]);
	printf(" rbx=%llx rcx=%llx rdx=%llx rsi=%llx", r[REG_RBX], r[REG_RCX], r[REG_RDX], r[REG_RSI]);
	where("rdi", r[REG_RDI]);
	printf(" rbp=%llx\n  r8=%llx r9=%llx r10=%llx r11=%llx r12=%llx r13=%llx r14=%llx r15=%llx", r[REG_RBP],
	       r[REG_R8], r[REG_R9], r[REG_R10], r[REG_R11], r[REG_R12], r[REG_R13], r[REG_R14], r[REG_R15]);
	printf(" rsp%+ld cf=%d cs=%x\n", (long)(r[REG_RSP] - expect_rsp), (int)r[REG_EFL] & 1, (int)r[REG_CSGSFS] & 0xffff);
	// The vector registers are in the frame, and the extended part is marked.
	struct _libc_fpstate *fp = uc->uc_mcontext.fpregs;
	uint32_t *sw = (uint32_t *)((char *)fp + 464);
	printf("  xmm7=%x magic=%x", fp->_xmm[7].element[0], sw[0]);
	if (sw[0] == 0x46505853)
		printf(" end=%x", *(uint32_t *)((char *)fp + sw[1] - 4));
	printf("\n");

	// Change everything.
	r[REG_RIP] = (greg_t)faults[current].on;
	r[REG_RAX] = 0xabcdef;
	r[REG_RCX] = 0x123456789;
	r[REG_R15] = -1;
	r[REG_EFL] &= ~1ll;
	fp->_xmm[7].element[0] = 0x777;
	fp->mxcsr = 0x1f80;
	// rsp as it was before pushes of the faulting function itself.
	r[REG_RSP] = expect_rsp;
}

__attribute__((noinline)) static void run(int i)
{
	current = i;
	void (*f)(void) = faults[i].run;
	// Below the red zone. In the fault functions rsp is a return address and
	// six registers lower.
	__asm__ volatile("lea -184(%%rsp), %%rsp\nlea -56(%%rsp), %%rax\nmov %%rax, expect_rsp(%%rip)\ncall *%0\nlea 184(%%rsp), %%rsp"
			 : : "b"(f) : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm1", "xmm7", "memory", "cc");
	printf("  after: %lx %lx %lx %x cf=%d\n", seen[0], seen[1], seen[2], (unsigned)seen[3], (int)seen[4] & 1);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
	const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	static char stack[65536];

	(void)argv;
	if (argc > 1) {
		// On a stack of its own.
		stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
		CHECK(sigaltstack(&ss, NULL) == 0);
		sa.sa_flags |= SA_ONSTACK;
	}
	for (int i = 0; i < 5; i++)
		CHECK(sigaction(sigs[i], &sa, NULL) == 0);
	CHECK(mprotect(page, 4096, PROT_READ) == 0);
	// Several rounds: the first one translates.
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < (int)(sizeof faults / sizeof faults[0]); i++)
			run(i);
	DONE();
}
