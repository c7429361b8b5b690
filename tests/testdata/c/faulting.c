// A guest whose faults the host program handles (tests/host). argv[1] names what it does.
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t cell = 4711;

// A load through a bad pointer in rbx; r12 has a good one.
static void fix(void) {
	uint64_t v;
	__asm__ volatile("mov $0x10, %%ebx\n\tmov %1, %%r12\n\tmov (%%rbx), %0"
	                 : "=a"(v) : "r"(&cell) : "rbx", "r12", "memory");
	printf("loaded %lu\n", v);
}

static void skip(void) {
	uint32_t q = 7;
	__asm__ volatile("xor %%ecx, %%ecx\n\txor %%edx, %%edx\n\tdiv %%ecx\n\tud2\n\taddl %%eax, 64(%%rcx)" : "+a"(q) : : "rcx", "rdx", "memory");
	printf("quotient %u\n", q);
	uint32_t after = 0;
	__asm__ volatile("int3\n\tmov $9, %0" : "+r"(after));
	printf("after %u\n", after);
}

static void onSignal(int sig, siginfo_t *si, void *context) {
	ucontext_t *uc = context;
	printf("signal %d code %d address %p rax %lld\n", sig, si->si_code, si->si_addr, uc->uc_mcontext.gregs[REG_RAX]);
	fflush(stdout);
	_exit(3);
}

static void handled(void) {
	struct sigaction sa = {.sa_sigaction = onSignal, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &sa, 0);
	__asm__ volatile("mov $1, %%eax\n\tmov %%rax, 0x1234" : : : "rax", "memory");
}

static void vector(void) {
	unsigned char in[32], x[16], y[32];
	for (int i = 0; i < 32; i++)
		in[i] = i + 1;
	double st = 2.5;
	__asm__ volatile("vzeroupper\n\tmovdqu %3, %%xmm1\n\tvmovdqu %3, %%ymm2\n\tvpxor %%xmm3, %%xmm3, %%xmm3\n\tfldl %2\n\tud2\n\t"
	                 "movdqu %%xmm1, %0\n\tvmovdqu %%ymm3, %1\n\tfstpl %2\n\tvzeroupper"
	                 : "=m"(x), "=m"(y), "+m"(st) : "m"(in) : "xmm1", "xmm2", "xmm3", "memory");
	for (int i = 0; i < 16; i++)
		printf("%d ", x[i]);
	for (int i = 0; i < 32; i++)
		printf("%d ", y[i]);
	printf("%g\n", st);
}

static void landing(void) {
	puts("landed");
	fflush(stdout);
	_exit(0);
}

static void fetch(void) {
	void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page, 0x90, 4096);
	__asm__ volatile("mov %0, %%r12\n\tand $-16, %%rsp\n\tpush $0\n\tjmp *%1" : : "r"(landing), "r"(page) : "r12");
}

static __thread uint64_t local = 12;

static void bases(void) {
	uint64_t value = 77, got;
	syscall(SYS_arch_prctl, ARCH_SET_GS, 0x1000);
	__asm__ volatile("mov %1, %%r12\n\tud2\n\tmov %%gs:0, %0" : "=r"(got) : "r"(&value) : "r12", "memory");
	printf("gs %lu local %lu\n", got, local);
}

static void *many(void *arg) {
	for (int i = 0; i < 200; i++) {
		uint64_t n = i;
		__asm__ volatile("ud2" : "+a"(n));
		if (n != (uint64_t)i + 1)
			abort();
	}
	return arg;
}

static void threads(void) {
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], 0, many, 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], 0);
	int status;
	pid_t child = fork();
	if (child == 0) {
		many(0);
		_exit(7);
	}
	waitpid(child, &status, 0);
	printf("child %d\n", WEXITSTATUS(status));
}

static void crash(void) {
	__asm__ volatile("movl $1, 0x40" : : : "memory");
}

static void memory(void) {
	char text[] = "guest text";
	uint64_t word = 1;
	__asm__ volatile("mov %0, %%r12\n\tmov %1, %%r13\n\tud2" : : "r"(text), "r"(&word) : "r12", "r13", "memory");
	printf("%s %lu\n", text, word);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		void (*f)(void);
	} modes[] = {
		{"fix", fix}, {"skip", skip}, {"handled", handled}, {"vector", vector}, {"fetch", fetch},
		{"bases", bases}, {"threads", threads}, {"crash", crash}, {"memory", memory},
	};
	for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
		if (argc > 1 && strcmp(argv[1], modes[i].name) == 0) {
			modes[i].f();
			return 0;
		}
	return 2;
}
