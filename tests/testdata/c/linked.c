// A program whose segments lie where xv would begin: it is linked to high addresses, or has a BSS of more than 1 GiB. It does a
// little of everything, in the child of a fork and in a program that it executes too.
#include "guest.h"
#include <pthread.h>

#ifndef BSS
#define BSS 4096
#endif
static volatile char bss[BSS];

// dispatch jumps by a pointer, with a slot on top of its stack in which is what its call has left there.
extern int dispatch(void);
extern char behind[];
static void *volatile target;
__asm__("dispatch:\n"
	"\tsub $8, %rsp\n"
	"\tmov target(%rip), %rax\n"
	"\tjmp *%rax\n"
	"behind:\n"
	"\tmov $11, %eax\n"
	"\tadd $8, %rsp\n"
	"\tret\n");

static void *worker(void *arg)
{
	uint64_t state = (uintptr_t)arg, sum = 0;
	for (int i = 0; i < 100000; i++)
		sum += mix(&state);
	return (void *)sum;
}

static volatile sig_atomic_t faults;
static void on_fault(int sig, siginfo_t *si, void *ctx)
{
	(void)sig, (void)si;
	faults++;
	((ucontext_t *)ctx)->uc_mcontext.gregs[REG_RIP] += 2; // mov (%rax),%eax
}

static int twice(int n) { return 2 * n; }

// near maps code 1 GiB below that of this program, or unmaps it: the lookup tables of the two would be at one place.
static void near(int unmap)
{
	uintptr_t at = ((uintptr_t)twice & -4096ul) - (1ul << 30);
	if ((uintptr_t)twice >> 31 || at < 0x100000 || at > 0x40000000)
		return;
	if (unmap) {
		CHECK(munmap((void *)at, 8192) == 0);
		return;
	}
	unsigned char *p = mmap((void *)at, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(p == (void *)at);
	if (p == MAP_FAILED)
		return;
	unsigned char *f = p + (uintptr_t)twice % 4096;
	memcpy(f, "\x8d\x44\x7f\x07\xc3", 5); // lea 7(%rdi,%rdi,2),%eax ; ret
	int (*volatile below)(int) = (int (*)(int))f;
	int (*volatile own)(int) = twice;
	for (int i = 0; i < 1000; i++) {
		CHECK(below(i) == 3 * i + 7);
		CHECK(own(i) == 2 * i);
	}
}

static void work(void)
{
	target = behind;
	CHECK(dispatch() == 11);
	CHECK(dispatch() == 11);

	bss[0] = 1, bss[BSS / 2] = 2, bss[BSS - 1] = 3;
	CHECK(bss[0] == 1 && bss[BSS / 2] == 2 && bss[BSS - 1] == 3);

	// The program break has room to grow.
	char *old = sbrk(256 << 20);
	CHECK(old != (void *)-1);
	if (old != (void *)-1) {
		old[0] = 1, old[(256 << 20) - 1] = 2;
		CHECK(sbrk(-(256 << 20)) != (void *)-1);
	}

	pthread_t t[4];
	for (long i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], 0, worker, (void *)i) == 0);
	for (long i = 0; i < 4; i++) {
		void *sum;
		CHECK(pthread_join(t[i], &sum) == 0 && sum == worker((void *)i));
	}

	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGSEGV, &sa, 0) == 0);
	for (int i = 0; i < 3; i++)
		__asm__ volatile("xor %%eax, %%eax\n\tmov (%%rax), %%eax" ::: "rax");
	CHECK(faults == 3);
	signal(SIGSEGV, SIG_DFL);
	faults = 0;
	near(0);
}

int main(int argc, char **argv)
{
	work();
	if (argc > 1)
		DONE();
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		near(1);
		work();
		execl("/proc/self/exe", argv[0], "again", (char *)0);
		_exit(3);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("child", status);
	DONE();
}
