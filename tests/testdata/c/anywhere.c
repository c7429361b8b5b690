// Signals at every instruction. A piece of code with all forms of control flow
// and system calls runs round by round, each with the same register values. In
// single steps the program learns the states that it can be in; then each
// signal must find it in one of them, with no address of a translation on its
// stack. The piece runs where it was linked and from a copy far above.
//
// With the argument "traced" SIGUSR2 starts it and ends each of the two, and its
// handler ends with a breakpoint, for a test that steps it; with "near" there is
// no copy. With "native" after that the stack may have addresses of translations:
// those of return sites.
#include "guest.h"
#include <asm/prctl.h>
#include <ucontext.h>

extern char blob[], blob_code[], blob_end[], masked_from[], masked_to[], site_call[];
__asm__(".pushsection .blob, \"awx\", @progbits\n.balign 4096\n.globl blob, blob_code, blob_end, masked_from, masked_to\n"
	"blob:\n"
	"lea stack_top(%rip), %rsp\n"
	"xor %eax, %eax\nmov $0x11, %eax\nmov $0x12, %ebx\nmov $0x13, %ecx\nmov $0x14, %edx\nmov $0x15, %ebp\nmov $0x16, %esi\nmov $0x17, %edi\n"
	"mov $0x18, %r8d\nmov $0x19, %r9d\nmov $0x1a, %r10d\nmov $0x1b, %r11d\nmov $0x1c, %r12d\nmov $0x1d, %r13d\nmov $0x1e, %r14d\n"
	"blob_code:\n"
	// Calls and returns.
	"call leaf\nstc\ncall leaf\n"
	"lea leaf(%rip), %rbx\ncall *%rbx\n"
	"lea data(%rip), %rdx\nmov %rbx, (%rdx)\ncall *(%rdx)\ncall *data(%rip)\n"
	"mov %rbx, %rcx\ncall *%rcx\n"
	"mov %rbx, %r12\ncall *%r12\n"
	"push $7\npush $8\ncall two\n"
	"call 1f\n1: pop %rax\n"
	"mov $3, %edi\ncall deep\n"
	"mov %rbx, %gs:16\ncall *%gs:16\n"
	// Jumps.
	"lea 2f(%rip), %rax\njmp *%rax\nud2\n2:\n"
	"lea 3f(%rip), %rax\nmov %rax, data+8(%rip)\njmp *data+8(%rip)\nud2\n3:\n"
	"lea 4f(%rip), %rcx\npush %rcx\nret\nud2\n4:\n"
	"mov $1, %eax\nmov $4, %ecx\n5: add %rcx, %rax\nloop 5b\n"
	"mov $2, %r13d\n6: dec %r13d\njnz 6b\n"
	"jrcxz 7f\nud2\n7:\n"
	"test %eax, %eax\njz away\n"
	// Operands relative to rip and gs, string instructions.
	"mov data(%rip), %rax\nlea data+64(%rip), %rdi\nlea data(%rip), %rsi\nmov $5, %ecx\nrep movsb\n"
	"movl $5, data+40(%rip)\naddl $3, data+40(%rip)\nmovdqu data(%rip), %xmm3\n"
	"mov %gs:8, %rax\nadd $1, %rax\nmov %rax, %gs:8\nmov $0, %eax\nmov %gs:8(%rax), %ecx\nmovl $0, %gs:8\nmov $0, %ecx\nmov $0, %eax\n"
	"mov $24, %esi\nlodsb %gs:(%rsi)\n"
	"enter $0, $0\nleave\n"
	// System calls: straight, in the gate, by hand-off; a signal that is blocked.
	"mov $39, %eax\nsyscall\nnop\nmov $1, %eax\n"
	"stc\nmov $14, %eax\nmov $0, %edi\nlea usr1(%rip), %rsi\nlea data+96(%rip), %rdx\nmov $8, %r10d\nsyscall\nnop\n"
	"masked_from: nop\ncall leaf\nmov $39, %eax\nsyscall\nnop\nmov $1, %eax\n"
	"std\ncld\nmov $14, %eax\nmov $1, %edi\nlea usr1(%rip), %rsi\nmov $0, %edx\nmov $8, %r10d\n"
	"masked_to: syscall\nnop\n"
	"mov $131, %eax\nmov $0, %edi\nmov $0, %esi\nsyscall\nnop\n"
	"mov $14, %eax\nmov $2, %edi\nlea data+96(%rip), %rsi\nmov $0, %edx\nsyscall\nnop\n"
	// What the agent looks at, and what it does itself: a file, code that is made writable and executable in turn.
	"mov $2, %eax\nlea root(%rip), %rdi\nmov $0, %esi\nsyscall\nnop\nmov %eax, %edi\nmov $3, %eax\nsyscall\nnop\n"
	"mov $10, %eax\nlea turned(%rip), %rdi\nmov $4096, %esi\nmov $3, %edx\nstc\nsyscall\nnop\n"
	"mov $10, %eax\nmov $5, %edx\nsyscall\nnop\ncall turned\n"
	"mov $0, %ecx\nmov $0, %r11d\n"
	"jmp *back(%rip)\n"
	"away: nop\nud2\n"
	"leaf: mov $0x2a, %eax\nret\n"
	"two: mov 8(%rsp), %rax\nadd 16(%rsp), %rax\nret $16\n"
	"deep: dec %edi\njz 8f\ncall deep\n8: ret\n"
	".balign 4096\n"
	"data: .skip 512\nusr1: .quad 0x200\n.globl back\nback: .quad 0\nroot: .asciz \"/\"\n.skip 3000\nstack_top: .skip 256\n"
	".balign 4096\n.globl turned\nturned: ret\n.balign 4096\nblob_end:\n.popsection\n");
extern char back[], turned[];

// enter runs the code of a blob at rdi and comes back by the address that is
// stored in it.
void enter(char *blob);
__asm__(".text\nenter: push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp, saved_rsp(%rip)\n"
	"mov %rdi, %r15\njmp *%rdi\n.globl enter_back\nenter_back: mov saved_rsp(%rip), %rsp\n"
	"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
extern char enter_back[];
uint64_t saved_rsp;

struct state { uint64_t rip, reg[15], flags; }; // without rsp: last of reg
enum { MAX = 2000 };
static struct state states[MAX];
static int count, learning, traced, native;
static char *base, *learned;
static volatile long hits, wrong, leaked, blocked, ticks;
static volatile int stop;
static uint64_t gs_area[16];

static uint64_t normal(uint64_t v)
{
	if (v - (uint64_t)base < (uint64_t)(blob_end - blob))
		return v - (uint64_t)base + 0x100000000;
	return v;
}

static void take(greg_t *r, struct state *s)
{
	static const int order[15] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_RSP};
	memset(s, 0, sizeof *s);
	s->rip = (uint64_t)r[REG_RIP] - (uint64_t)base;
	s->flags = r[REG_EFL] & 0xcd5;
	for (int i = 0; i < 15; i++)
		s->reg[i] = normal(r[order[i]]);
	if (s->reg[0] == (uint64_t)getpid())
		s->reg[0] = 0x1234567;
	s->reg[10] &= ~0x100ull; // r11 has TF after a system call in single steps
	if (((uint8_t *)base)[s->rip] == 0x0f && ((uint8_t *)base)[s->rip + 1] == 0x05)
		s->reg[2] = s->reg[10] = 0; // a system call that is done again has changed rcx and r11
}

static void check(greg_t *r)
{
	struct state s;

	hits++;
	take(r, &s);
	int i = 0;
	while (i < count && memcmp(&states[i], &s, sizeof s))
		i++;
	if (i == count && !wrong++) {
		printf("no state at %#lx flags %#lx:", s.rip, s.flags);
		for (int k = 0; k < 15; k++)
			printf(" %#lx", s.reg[k]);
		printf("\n");
		for (i = 0; i < count; i++)
			if (states[i].rip == s.rip) {
				printf("   expected flags %#lx:", states[i].flags);
				for (int k = 0; k < 15; k++)
					printf(" %#lx", states[i].reg[k]);
				printf("\n");
			}
	}
	for (uint64_t *p = (uint64_t *)r[REG_RSP]; !native && (char *)p < base + (blob_end - blob) - 256; p++)
		if (*p - 0x40000000 < 0x30000000 && !leaked++)
			printf("at %#lx: the stack has %#lx at rsp+%ld\n", s.rip, *p, (char *)p - (char *)r[REG_RSP]);
	if (s.rip >= (uint64_t)(masked_from - blob) && s.rip <= (uint64_t)(masked_to - blob) && !blocked++)
		printf("blocked at %#lx of %#lx to %#lx\n", s.rip, (uint64_t)(masked_from - blob), (uint64_t)(masked_to - blob));
}

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	greg_t *r = uc->uc_mcontext.gregs;

	(void)si;
	ticks++;
	if ((uint64_t)r[REG_RIP] - (uint64_t)base < (uint64_t)(blob_end - blob) && r[REG_RIP] >= (greg_t)(base + (blob_code - blob))) {
		check(r);
		if (uc->uc_mcontext.fpregs->_xmm[9].element[1] != 0x9999)
			wrong++;
	}
	if (traced && sig == SIGUSR1)
		__asm__ volatile("int3" : : "a"(0x7261636521));
}

static void learn(struct state *s)
{
	int i = 0;
	while (i < count && memcmp(&states[i], s, sizeof *s))
		i++;
	if (i == count && count < MAX)
		states[count++] = *s;
}

static void on_step(int sig, siginfo_t *si, void *ctx)
{
	greg_t *r = ((ucontext_t *)ctx)->uc_mcontext.gregs;

	(void)sig;
	(void)si;
	if (!learning)
		r[REG_EFL] &= ~0x100ll;
	if ((uint64_t)r[REG_RIP] - (uint64_t)base < (uint64_t)(blob_end - blob) && r[REG_RIP] >= (greg_t)(base + (blob_code - blob))) {
		struct state s;
		take(r, &s);
		learn(&s);
		// There is no trap after a system call, but after the nop behind it.
		if (!memcmp((char *)r[REG_RIP] - 3, "\x0f\x05\x90", 3)) {
			s.rip--;
			learn(&s);
		}
	}
}

static void on_usr2(int sig) { (void)sig; stop++; }

static void rounds(char *at, long want)
{
	base = at;
	*(char **)(at + (back - blob)) = enter_back;
	for (int i = 0; i < 40; i++)
		CHECK(mprotect(at + (turned - blob), 4096, i % 2 ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE) == 0);
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, gs_area) == 0);
	__asm__ volatile("movq %0, %%xmm9" : : "r"(0x999900000001ull) : "xmm9");
	if (!learned) {
		learned = at;
		learning = 1;
		for (int i = 0; i < 2; i++) {
			__asm__ volatile("pushf\norl $0x100, (%%rsp)\npopf" : : : "memory", "cc");
			enter(at);
			__asm__ volatile("pushf\nandl $~0x100, (%%rsp)\npopf" : : : "memory", "cc");
		}
		learning = 0;
		return;
	}
	while (want ? ticks < want : !stop)
		enter(at);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	static char stack[1 << 16];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
	size_t size = blob_end - blob;

	setvbuf(stdout, NULL, _IONBF, 0);
	traced = argc > 1;
	native = argc > 2;
	CHECK(sigaction(SIGTRAP, &sa, NULL) == 0);
	CHECK(sigaltstack(&ss, NULL) == 0);
	sa.sa_sigaction = on_signal;
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	char *far = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(far != MAP_FAILED);
	memcpy(far, blob, size);
	CHECK(mprotect(far, size / 2 & ~4095ul, PROT_READ | PROT_EXEC) == 0);
	rounds(blob, 0);
	uint64_t hash = 0;
	for (int i = 0; i < count; i++)
		for (size_t k = 0; k < sizeof states[i] / 8; k++)
			hash = (hash ^ ((uint64_t *)&states[i])[k]) * 0x100000001b3;
	printf("%d states, hash %lx\n", count, hash);
	if (traced) {
		sa = (struct sigaction){.sa_handler = on_usr2, .sa_flags = SA_ONSTACK | SA_RESTART}; // no frame with AVX-512 fits on the piece's stack
		CHECK(sigaction(SIGUSR2, &sa, NULL) == 0);
		printf("ready\n");
		while (stop < 1)
			pause();
		stop = 0;
		rounds(blob, 0);
		if (argv[1][0] == 't') {
			stop = 0;
			rounds(far, 0);
		}
	} else {
		timer_t timer;
		struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
		struct itimerspec its = {.it_value.tv_nsec = 200000, .it_interval.tv_nsec = 200000};
		CHECK(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0);
		CHECK(timer_settime(timer, 0, &its, NULL) == 0);
		rounds(blob, 500);
		ticks = 0;
		rounds(far, 500);
		CHECK(timer_delete(timer) == 0);
	}
	printf("hit %d wrong %ld leaked %ld blocked %ld\n", hits > 0, wrong, leaked, blocked);
	CHECK(wrong == 0 && leaked == 0 && blocked == 0);
	DONE();
}
