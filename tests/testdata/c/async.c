// Signals at any instruction: loops of every kind of control flow keep all
// registers in use while a timer interrupts them; nothing may be lost or seen
// half done. Each handler looks at the interrupted registers, too.
#include "guest.h"
#include <sys/time.h>
#include <ucontext.h>

static volatile long ticks;

// torture does `rounds` rounds of calls, indirect calls and jumps, pushes,
// string instructions and red zone use, with constants in every register, and
// returns how often one was wrong.
long torture(long rounds);
extern char torture_from[], torture_to[], torture_end[];
__asm__(".text\n.globl torture, torture_from, torture_to, torture_end\ntorture:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov %rdi, %r15\nxor %r14d, %r14d\n"
	"mov $0x1001, %ebx\nmov $0x1002, %ebp\nmov $0x1003, %r12d\nmov $0x1004, %r13d\n"
	"mov $0x1005, %r8d\nmovq %r8, %xmm5\n"
	"torture_from:\n1: mov $0x2001, %ecx\nmov $0x2002, %edx\nmov %rcx, -16(%rsp)\nmov %rdx, -128(%rsp)\n"
	"cmp $0x2001, %ecx\njne 9f\n"
	"call leaf_fn\ncmp $0x2001, %ecx\njne 9f\n"
	"lea leaf_fn(%rip), %rax\ncall *%rax\ncmp $0x2001, %ecx\njne 9f\ncmp $0x2002, %edx\njne 9f\n"
	"mov %rcx, -16(%rsp)\nmov %rdx, -128(%rsp)\n"
	"lea 2f(%rip), %rax\nstc\njmp *%rax\nud2\n"
	"2: jnc 9f\ncmpl $0x2001, -16(%rsp)\njne 9f\ncmpl $0x2002, -128(%rsp)\njne 9f\n"
	"call 3f\n3: pop %rax\nlea 3b(%rip), %rsi\ncmp %rax, %rsi\njne 9f\n"
	"push %rcx\npush $5\nadd $8, %rsp\npop %rsi\ncmp %rcx, %rsi\njne 9f\n"
	"lea -128(%rsp), %rsp\nlea buffer(%rip), %rdi\nmov %rdi, %rsi\nadd $64, %rsi\nmov $40, %ecx\nrep movsb\ntest %ecx, %ecx\nlea 128(%rsp), %rsp\njnz 9f\n"
	"push $0x77\npush $0x88\nlea two_args(%rip), %rsi\ncall *%rsi\ncmp $0xff, %eax\njne 9f\n"
	"mov $10, %ecx\nxor %eax, %eax\n4: add %ecx, %eax\nloop 4b\ncmp $55, %eax\njne 9f\n"
	"cmp $0x1001, %ebx\njne 9f\ncmp $0x1002, %ebp\njne 9f\ncmp $0x1003, %r12d\njne 9f\ncmp $0x1004, %r13d\njne 9f\ncmp $0x1005, %r8d\njne 9f\n"
	"movq %xmm5, %rax\ncmp $0x1005, %rax\njne 9f\n"
	"8: dec %r15\njnz 1b\n"
	"torture_to: mov %r14, %rax\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
	"9: inc %r14\nmov $0x1001, %ebx\nmov $0x1002, %ebp\nmov $0x1003, %r12d\nmov $0x1004, %r13d\nmov $0x1005, %r8d\nmovq %r8, %xmm5\njmp 8b\n"
	"leaf_fn: cmp $0x2001, %ecx\njne 5f\nret\n5: ud2\n"
	"two_args: mov 8(%rsp), %rax\nadd 16(%rsp), %rax\nret $16\n"
	"torture_end:\n");
char buffer[256];

static volatile long inside, strange;

static void on(int sig, siginfo_t *si, void *ctx)
{
	greg_t *r = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	char *rip = (char *)r[REG_RIP];

	(void)sig;
	(void)si;
	ticks++;
	if (rip >= (char *)torture && rip < torture_end) {
		inside++;
		// In the loop these registers never change.
		if (rip >= torture_from && rip < torture_to && (r[REG_RBX] != 0x1001 || r[REG_RBP] != 0x1002 || r[REG_R12] != 0x1003 || r[REG_R13] != 0x1004))
			strange++;
	}
	// The handler calls and returns as well.
	static char text[100];
	snprintf(text, sizeof text, "%ld %p %f", ticks, (void *)rip, 1.5);
}

int main(int argc, char **argv)
{
	long wrong = 0, want = argc > 1 ? atol(argv[1]) : 300;
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct itimerval it = {.it_interval.tv_usec = 1000, .it_value.tv_usec = 1000}, off = {0};
	static char stack[65536];

	for (int round = 0; round < 2; round++) {
		if (round == 1) {
			stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
			CHECK(sigaltstack(&ss, NULL) == 0);
			sa.sa_flags |= SA_ONSTACK;
		}
		CHECK(sigaction(SIGALRM, &sa, NULL) == 0);
		ticks = 0;
		CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
		while (ticks < want)
			wrong += torture(2000);
		CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	}
	// System calls in the way of signals: all of the bytes arrive, once.
	int fds[2];
	CHECK(pipe(fds) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		close(fds[0]);
		for (int i = 0; i < 20000; i++)
			if (write(fds[1], &i, sizeof i) != sizeof i)
				_exit(1);
		_exit(0);
	}
	close(fds[1]);
	CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
	int v, next = 0;
	ssize_t n;
	while ((n = read(fds[0], &v, sizeof v)) > 0) {
		CHECK(n == sizeof v && v == next);
		next++;
	}
	CHECK(n == 0);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	printf("wrong %ld strange %ld inside %d read %d\n", wrong, strange, inside > 0, next);
	DONE();
}
