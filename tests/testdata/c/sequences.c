// Faults in the middle of what one instruction becomes, or of what it does: each
// shows the state before the instruction, or that of the iteration of a string
// instruction. The code runs where it was linked, from a copy far above, and from
// one at an address that needs more bits still.
#include "guest.h"
#include <asm/prctl.h>
#include <ucontext.h>

// Two pages of code, a page without access, a page of data, another without access.
extern char blob[], none[], data[], blob_end[];
__asm__(".pushsection .blob, \"awx\", @progbits\n.balign 4096\n.globl blob, none, data, blob_end\nblob:\n"
	"leaf: ret\n.popsection\n");

#define S(name, setup, insn)                                                                     \
	extern char name[], name##_at[];                                                         \
	__asm__(".pushsection .blob\n.globl " #name ", " #name "_at\n" #name ": " setup "\n" #name \
		"_at: " insn "\nud2\n.popsection\n");

S(gs_load, "", "mov %gs:16, %rbx")
S(gs_store, "", "movb %ah, %gs:24")
S(gs_index, "", "add %gs:8(%rbx,%rcx,4), %r8")
S(gs_bad, "movabs $0x7fffffffffffff00, %rbx", "mov %rax, %gs:(%rbx)")
S(gs_rdx, "mov $16, %r9d", "lock cmpxchg %rdx, %gs:(%r9)")
S(gs_call, "", "call *%gs:16")
S(gs_jmp, "", "jmp *%gs:16")
S(gs_lods, "mov $40, %esi", "lodsl %gs:(%rsi)")
S(gs_movs, "mov $40, %esi\nmov $3, %ecx", "rep movsl %gs:(%rsi), %es:(%rdi)")
S(rip_load, "", "mov none+8(%rip), %rcx")
S(rip_store, "", "movl $7, none+8(%rip)")
S(rip_lock, "", "lock incl none+16(%rip)")
S(rip_sse, "", "movdqu none+16(%rip), %xmm1")
S(rip_aligned, "", "movaps data+8(%rip), %xmm1")
S(rip_push, "", "push none+32(%rip)")
S(rip_pop, "push $5", "pop none+32(%rip)")
S(rip_call, "", "call *none+8(%rip)")
S(rip_jmp, "", "jmp *none+8(%rip)")
S(rip_div, "", "div none+8(%rip)")
S(div_zero, "movl $0, data+8(%rip)", "divl data+8(%rip)")
S(mem_call, "lea none(%rip), %rbx\nmov $1, %ecx", "call *8(%rbx,%rcx,8)")
S(mem_jmp, "lea none(%rip), %rcx", "jmp *(%rcx)")
S(push_call, "lea data(%rip), %rsp", "call leaf")
S(push_call_reg, "lea data(%rip), %rsp\nlea leaf(%rip), %rdx", "call *%rdx")
S(push_call_mem, "lea data(%rip), %rsp\nlea leaf(%rip), %rdx\nmov %rdx, 16(%rsp)", "call *16(%rsp)")
S(push_next, "lea data(%rip), %rsp", "call 1f\n1: nop")
S(push_reg, "lea data(%rip), %rsp", "push %rcx")
S(ret_none, "lea none+64(%rip), %rsp", "ret")
S(ret_n, "lea none+64(%rip), %rsp", "ret $24")
S(ret_data, "lea data(%rip), %rcx\npush %rcx", "ret")
S(ret_zero, "push $0", "ret $8")
S(jmp_none, "", "jmp none")
S(jcc_none, "cmp %eax, %eax", "je none+5")
S(call_none, "", "call none+16")
S(jmp_reg, "lea none(%rip), %rcx", "jmp *%rcx")
S(call_reg, "lea none(%rip), %rcx", "call *%rcx")
S(call_low, "mov $0x50001000, %ecx", "call *%rcx")
S(jmp_low, "mov $0x50001000, %ecx", "jmp *%rcx")
S(jrcxz_none, "xor %ecx, %ecx", "jrcxz 1f\nud2\n1: jmp none+9")
S(movs_up, "lea data(%rip), %rsi\nlea none-20(%rip), %rsi\nlea data+64(%rip), %rdi\nmov $100, %ecx", "rep movsb")
S(movs_down, "lea data+12(%rip), %rsi\nlea data+80(%rip), %rdi\nmov $10, %ecx\nstd", "rep movsl")
S(stos, "lea data(%rip), %rdi\nmov $600, %ecx", "rep stosq")
S(scas, "lea data+4000(%rip), %rdi\nmov $200, %ecx\nxor %eax, %eax\nmovb $0, data+4080(%rip)", "repe scasb")
S(cmps, "lea none-3(%rip), %rsi\nmov %rsi, %rdi\nmov $10, %ecx", "repe cmpsb")
S(enter_none, "lea data(%rip), %rsp", "enter $16, $0")
S(leave_none, "lea none(%rip), %rbp", "leave")
S(popf_none, "lea none(%rip), %rsp", "popf")
S(xlat, "lea none(%rip), %rbx", "xlat")
S(fld, "lea none(%rip), %rbx", "fldt (%rbx)")
S(fxsave, "lea data+8(%rip), %rbx", "fxsave (%rbx)")
S(cmpxchg16, "lea data+8(%rip), %rbx", "lock cmpxchg16b (%rbx)")
S(illegal, "", ".byte 0x06")
S(lock_mov, "", ".byte 0xf0, 0x89, 0xc8")
S(ud1, "", ".byte 0x0f, 0xb9, 0xc0")
S(too_long, "", ".fill 15, 1, 0x66\nnop")
S(cli, "", "cli")
S(rdmsr, "", "rdmsr")
S(int4, "", "int $4")
S(lgdt, "", "lgdt (%rax)")
S(out, "", "outsb")
// The end of the second page, where an instruction goes on without access.
__asm__(".pushsection .blob\n.org 8192-3\n.globl cross, cross_at, cross2, cross2_at\ncross: cross_at: .byte 0xb8, 1, 2\n"
	"none: .skip 4096, 0x90\ndata: .skip 4096\nblob_tail: .skip 4096\nblob_end:\n.popsection\n");
extern char cross[], cross_at[];

void enter(char *to);
__asm__(".text\n.globl enter_back\nenter: push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp, saved_rsp(%rip)\nmov %rdi, to_enter(%rip)\n"
	"mov first_rsp(%rip), %rsp\n"
	"mov $0x1010, %eax\nmov $0x1313, %ebx\nmov $0x1111, %ecx\nmov $0x1212, %edx\nmov $0x1515, %ebp\nmov $0x1616, %esi\nmov $0x1717, %edi\n"
	"mov $0x1818, %r8d\nmov $0x1919, %r9d\nmov $0x1a1a, %r10d\nmov $0x1b1b, %r11d\nmov $0x1c1c, %r12d\nmov $0x1d1d, %r13d\nmov $0x1e1e, %r14d\nmov $0x1f1f, %r15d\n"
	"stc\njmp *to_enter(%rip)\n"
	"enter_back: mov saved_rsp(%rip), %rsp\ncld\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
extern char enter_back[];
uint64_t saved_rsp, first_rsp, to_enter;

static const struct { const char *name; char *from, *at; } all[] = {
#define A(n) {#n, n, n##_at}
	A(gs_load), A(gs_store), A(gs_index), A(gs_bad), A(gs_rdx), A(gs_call), A(gs_jmp), A(gs_lods), A(gs_movs),
	A(rip_load), A(rip_store), A(rip_lock), A(rip_sse), A(rip_aligned), A(rip_push), A(rip_pop), A(rip_call), A(rip_jmp), A(rip_div), A(div_zero),
	A(mem_call), A(mem_jmp), A(push_call), A(push_call_reg), A(push_call_mem), A(push_next), A(push_reg), A(ret_none), A(ret_n), A(ret_data), A(ret_zero),
	A(jmp_none), A(jcc_none), A(call_none), A(jmp_reg), A(call_reg), A(call_low), A(jmp_low), A(jrcxz_none), A(movs_up), A(movs_down), A(stos), A(scas), A(cmps),
	A(enter_none), A(leave_none), A(popf_none), A(xlat), A(fld), A(fxsave), A(cmpxchg16), A(illegal), A(lock_mov), A(ud1), A(too_long), A(cli), A(rdmsr),
	A(int4), A(lgdt), A(out), A(cross),
};
static char *base, *at;

static void show(const char *what, uint64_t v)
{
	uint64_t off = v - (uint64_t)base;
	if (v - (uint64_t)at < 64 || (uint64_t)at - v < 16)
		printf(" %s=at%+ld", what, (long)(v - (uint64_t)at));
	else if (off < (uint64_t)(blob_end - blob))
		printf(" %s=blob+%lx", what, off);
	else
		printf(" %s=%lx", what, v);
}

static void on(int sig, siginfo_t *si, void *ctx)
{
	static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	greg_t *r = ((ucontext_t *)ctx)->uc_mcontext.gregs;

	printf(" signal %d code %d", sig, si->si_code);
	show("addr", (uint64_t)si->si_addr);
	show("rip", r[REG_RIP]);
	printf(" trap %lld err %llx flags %llx", r[REG_TRAPNO], r[REG_ERR], r[REG_EFL] & 0xcd5);
	if (r[REG_TRAPNO] == 14)
		show("cr2", r[REG_CR2]);
	for (int i = 0; i < 16; i++)
		if (i != 4 && r[order[i]] != 0x1010 + 0x101 * i) {
			char name[8];
			sprintf(name, "r%d", i);
			show(name, r[order[i]]);
		}
	if ((uint64_t)r[REG_RSP] != first_rsp) {
		show("rsp", r[REG_RSP]);
		if ((uint64_t)r[REG_RSP] < first_rsp && (char *)r[REG_RSP] >= base + (data - blob))
			show("top", *(uint64_t *)r[REG_RSP]);
	}
	printf("\n");
	r[REG_RIP] = (greg_t)enter_back;
}

static void run(const char *where, char *to)
{
	size_t size = blob_end - blob;
	if (to != blob) {
		CHECK(mmap(to, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == to);
		memcpy(to, blob, size);
	}
	CHECK(mprotect(to, 8192, PROT_READ | PROT_EXEC) == 0);
	base = to;
	for (int round = 0; round < 2; round++)
		for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
			CHECK(mprotect(to + (none - blob), 4096, PROT_NONE) == 0);
			CHECK(mprotect(to + size - 4096, 4096, PROT_NONE) == 0);
			memset(to + (data - blob), 0, 4096);
			at = all[i].at - blob + to;
			first_rsp = (uint64_t)to + (data - blob) + 3072;
			printf("%s %s:", where, all[i].name);
			enter(all[i].from - blob + to);
		}
}

int main(void)
{
	static char stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
	const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	setvbuf(stdout, NULL, _IOLBF, 0);
	CHECK(sigaltstack(&ss, NULL) == 0);
	for (int i = 0; i < 5; i++)
		CHECK(sigaction(sigs[i], &sa, NULL) == 0);
	char *far = mmap(NULL, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(far != MAP_FAILED);
	run("far", far);
	run("middle", (char *)0x0e0000000000);
	run("near", blob);
	DONE();
}
