// Single steps: a program that sets TF gets SIGTRAP after each instruction, and
// sees where it is; breakpoints.
#include "guest.h"
#include <ucontext.h>

extern char code_from[], code_to[];
void code(void);
long target(long);
char root[] = "/", text[64] = "abcdefghijklmnopqrstuvwxyz", copy[64];
uint64_t flags_seen;
long counter;
unsigned char *turned; // code that is made writable and executable in turn

__asm__(".text\n.globl code, code_from, code_to, target\ncode:\n"
	"push %rbx\npush %r12\n"
	"pushf\norl $0x100, (%rsp)\npopf\n"
	"code_from: nop\n"
	"mov $3, %ecx\n"
	"1: add %rcx, counter(%rip)\nloop 1b\n"
	"lea target(%rip), %rbx\nmov $5, %edi\n"
	"call target\n"
	"call *%rbx\n"
	"push %rax\npush $7\nadd $8, %rsp\npop %rax\n"
	"lea 2f(%rip), %rdx\njmp *%rdx\nud2\n"
	"2: test %eax, %eax\njz 9f\njnz 3f\nud2\n"
	"3: lea text(%rip), %rsi\nlea copy(%rip), %rdi\nmov $4, %ecx\nrep movsb\n"
	"mov $39, %eax\nsyscall\n"		// getpid
	"nop\nnop\n"
	"mov $14, %eax\nxor %edi, %edi\nxor %esi, %esi\nxor %edx, %edx\nmov $8, %r10d\nsyscall\n" // rt_sigprocmask
	"nop\n"
	"mov $131, %eax\nxor %edi, %edi\nxor %esi, %esi\nsyscall\n" // sigaltstack
	"nop\n"
	"mov $2, %eax\nlea root(%rip), %rdi\nxor %esi, %esi\nsyscall\n" // open
	"nop\n"
	"mov %eax, %edi\nmov $3, %eax\nsyscall\n" // close
	"nop\n"
	"mov $10, %eax\nmov turned(%rip), %rdi\nmov $4096, %esi\nmov $3, %edx\nsyscall\n" // mprotect
	"nop\n"
	"mov $10, %eax\nmov $5, %edx\nsyscall\n"
	"nop\n"
	"pushf\npop flags_seen(%rip)\n"
	"cld\nstd\ncld\n"
	"call 4f\n4: pop %rbx\n"
	"lea 5f(%rip), %rdx\npush %rdx\nret\nud2\n"
	"5: lea 6f(%rip), %rdx\npush %rdx\npush %rdx\nret $8\nud2\n6: nop\n"
	"int3\n"
	"nop\n"
	"9: pushf\nandl $~0x100, (%rsp)\npopf\n"
	"nop\nnop\n"
	"code_to: pop %r12\npop %rbx\nret\n"
	"target: lea 1(%rdi), %rax\nret\n");

void others(void);
__asm__(".text\nothers:\nint3\nnop\nint $3\nnop\nret\n");

static int count;
static volatile int stop_at = -1;

static void on(int sig, siginfo_t *si, void *ctx)
{
	greg_t *r = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	long off = r[REG_RIP] - (long)code_from, addr = (long)si->si_addr - (long)code_from;

	printf("%d: signal %d code %d rip ", count++, sig, si->si_code);
	if (off > -4096 && off < 4096)
		printf("%ld", off);
	else
		printf("elsewhere");
	if (si->si_code > 0 && si->si_code != SI_KERNEL)
		printf(" addr %s", addr == off ? "rip" : "other");
	printf(" trap %lld tf %d rcx %lld rax %lld df %d\n", r[REG_TRAPNO], (int)(r[REG_EFL] >> 8 & 1),
	       off > 30 && off < 40 ? 0 : r[REG_RCX] > 1000 ? -1 : r[REG_RCX], r[REG_RAX] > 1000 || r[REG_RAX] == getpid() ? -1 : r[REG_RAX], (int)(r[REG_EFL] >> 10 & 1));
	if (count == stop_at)
		r[REG_EFL] &= ~0x100ll;
	if (count > 300)
		_exit(3);
}

int main(void)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};

	CHECK(sigaction(SIGTRAP, &sa, NULL) == 0);
	turned = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	turned[0] = 0xc3;
	for (int i = 0; i < 40; i++) {
		CHECK(mprotect(turned, 4096, PROT_READ | PROT_EXEC) == 0);
		((void (*)(void))turned)();
		CHECK(mprotect(turned, 4096, PROT_READ | PROT_WRITE) == 0);
	}
	// Twice: the second time everything is translated and linked.
	for (int i = 0; i < 2; i++) {
		counter = 0;
		code();
		printf("counter %ld copy %s flags %d\n", counter, copy, (int)(flags_seen >> 8 & 1));
		count = 0;
	}
	// The handler ends the single steps.
	stop_at = 20;
	code();
	printf("stopped after %d\n", count);
	stop_at = -1;
	count = 0;
	others();
	// Without a handler the first step kills.
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		signal(SIGTRAP, SIG_DFL);
		code();
		_exit(0);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("default", status);
	// Blocked, too.
	if ((pid = fork()) == 0) {
		sigset_t s;
		sigemptyset(&s);
		sigaddset(&s, SIGTRAP);
		sigprocmask(SIG_BLOCK, &s, NULL);
		code();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("blocked", status);
	DONE();
}
