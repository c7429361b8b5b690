// Code that one thread patches while others run it: a loop that ends by a patch,
// the cross-modifying protocol with a serializing instruction, operands that are
// written atomically, breakpoints that are put in front of what changes.
#include "guest.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <ucontext.h>

typedef long (*fn)(long);

// Of linux/membarrier.h, which musl has not.
enum { SYNC_CORE = 1 << 5, REGISTER_SYNC_CORE = 1 << 6 };

static const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC, rwx = PROT_READ | PROT_WRITE | PROT_EXEC;

static void set(unsigned char *p, int v)
{
	p[0] = 0xb8; // mov eax,v
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

static void start(pthread_t *t, void *(*f)(void *), void *arg) { CHECK(pthread_create(t, NULL, f, arg) == 0); }

static void *run(void *p) { return (void *)((fn)p)(0); }

// ended patches an endless loop.
static void ended(unsigned char *p)
{
	// xor eax,eax; nop; nop; 1: jmp 1b; ret; with the jump, and then with its target, patched
	for (int i = 0; i < 10; i++) {
		pthread_t t;
		void *r;
		memcpy(p, "\x31\xc0\x90\x90\xeb\xfe\xc3\x90", 8);
		memcpy(p + 8, "\xb8\x07\x00\x00\x00\xc3", 6);
		start(&t, run, p);
		usleep(i * 300);
		atomic_store((_Atomic unsigned short *)(p + 4), i % 2 ? 0x9090 : 0x02eb);
		CHECK(pthread_join(t, &r) == 0 && (long)r == (i % 2 ? 0 : 7));
	}
	puts("ended");
}

static _Atomic int turn;
static unsigned char *where, *from;
enum { ROUNDS = 150 };

static void serialize(void)
{
	unsigned a = 0, b, c = 0, d;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

static void *reader(void *arg)
{
	(void)arg;
	long sum = 0;
	for (int i = 1; i <= ROUNDS; i++) {
		while (atomic_load(&turn) != 2 * i - 1)
			if (i % 2)
				sched_yield();
		serialize();
		sum = sum * 3 + ((fn)where)(0);
		if (i % 50 == 0)
			for (int k = 0; k < 40000; k++)
				((fn)where)(0);
		atomic_store(&turn, 2 * i);
	}
	return (void *)sum;
}

// crossed changes code in turns with a thread that runs it, by the protocol of the manuals.
static void crossed(unsigned char *w, unsigned char *x, int toggle, const char *what)
{
	pthread_t t;
	void *r;
	long sum = 0;
	where = x;
	from = w;
	turn = 0;
	start(&t, reader, NULL);
	for (int i = 1; i <= ROUNDS; i++) {
		while (atomic_load(&turn) != 2 * i - 2)
			sched_yield();
		if (toggle)
			CHECK(mprotect(w, 4096, rw) == 0);
		set(w, i * 5);
		if (i % 3 == 0)
			memcpy(w, "\x6a\x55\x58\x40\x90\xc3", 6); // push 85; pop rax; nop; ret
		if (toggle)
			CHECK(mprotect(w, 4096, rx) == 0);
		sum = sum * 3 + (i % 3 ? i * 5 : 85);
		atomic_store(&turn, 2 * i - 1);
	}
	CHECK(pthread_join(t, &r) == 0);
	printf("%s %d\n", what, (long)r == sum);
}

static _Atomic int stop;

// watches runs a function whose result only grows.
static void *watch(void *p)
{
	long last = 0, wrong = 0;
	while (!atomic_load(&stop)) {
		long v = ((fn)p)(0);
		wrong += v < last;
		last = v;
	}
	return (void *)wrong;
}

static void ticked(int sig) { (void)sig; }

// grows writes an operand atomically that other threads execute.
static void grows(unsigned char *p)
{
	pthread_t t[2];
	void *r;
	struct itimerval every = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
	signal(SIGALRM, ticked);
	set(p + 3, 0); // the operand is aligned
	stop = 0;
	for (int i = 0; i < 2; i++)
		start(&t[i], watch, p + 3);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 1; i <= 3000; i++) {
		atomic_store((_Atomic int *)(p + 4), i);
		if (i % 64 == 0)
			usleep(20);
	}
	usleep(3000);
	setitimer(ITIMER_REAL, &never, NULL);
	stop = 1;
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(t[i], &r) == 0 && r == NULL);
	puts("grows");
}

// store executes code often, and then stores beside it.
static void *store(void *arg)
{
	volatile long *cell = arg;
	unsigned char *p = (unsigned char *)((uintptr_t)arg & -4096);
	long sum = 0;
	for (int i = 0; i < 100; i++) {
		for (int k = 0; k < 20000; k++)
			sum += ((fn)p)(0);
		*cell = sum;
	}
	return (void *)(*cell - sum);
}

// together has threads that store into the page of hot code at the same time.
static void together(unsigned char *p)
{
	pthread_t t[4];
	void *r;
	set(p, 3);
	for (int i = 0; i < 4; i++)
		start(&t[i], store, p + 2048 + 8 * i);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(t[i], &r) == 0 && r == NULL);
	puts("together");
}

static unsigned char *point;

// trapped is SIGTRAP's handler: the int3 is about to go.
static void trapped(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)si;
	ucontext_t *u = uc;
	if ((unsigned char *)u->uc_mcontext.gregs[REG_RIP] != point + 1)
		_exit(9);
	u->uc_mcontext.gregs[REG_RIP]--;
}

static void *either(void *p)
{
	long wrong = 0;
	while (!atomic_load(&stop)) {
		long v = ((fn)p)(3);
		wrong += v != 5 && v != 9 && v != 0x1234567;
	}
	return (void *)wrong;
}

// breakpoints replaces one instruction by another behind an int3.
static void breakpoints(unsigned char *p)
{
	static const char *codes[] = {
		"\x48\x8d\x44\x3f\xff", "\xb8\x67\x45\x23\x01", "\x48\x8d\x44\x7f\x00", "\xb8\x05\x00\x00\x00",
	};
	struct sigaction sa = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
	int sync = syscall(SYS_membarrier, REGISTER_SYNC_CORE, 0, 0) == 0;
	pthread_t t[2];
	void *r;
	sigaction(SIGTRAP, &sa, NULL);
	point = p + 1;
	memcpy(p, "\x90\xb8\x05\x00\x00\x00\xc3", 7);
	stop = 0;
	for (int i = 0; i < 2; i++)
		start(&t[i], either, p);
	for (int i = 0; sync && i < 100; i++) {
		const char *code = codes[i % 4];
		*(volatile unsigned char *)point = 0xcc;
		syscall(SYS_membarrier, SYNC_CORE, 0, 0);
		for (int k = 1; k < 5; k++)
			((volatile unsigned char *)point)[k] = code[k];
		syscall(SYS_membarrier, SYNC_CORE, 0, 0);
		*(volatile unsigned char *)point = code[0];
		syscall(SYS_membarrier, SYNC_CORE, 0, 0);
		if (i % 8 == 0)
			usleep(200);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(t[i], &r) == 0 && r == NULL);
	puts("breakpoints");
}

int main(void)
{
	unsigned char *p = mmap(NULL, 4096, rwx, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *q = mmap(NULL, 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("code", 0);
	CHECK(ftruncate(fd, 4096) == 0);
	unsigned char *w = mmap(NULL, 4096, rw, MAP_SHARED, fd, 0), *x = mmap(NULL, 4096, rx, MAP_SHARED, fd, 0);
	ended(p);
	crossed(p, p, 0, "written");
	crossed(q, q, 1, "toggled");
	crossed(w, x, 0, "two mappings");
	grows(p);
	together(p);
	breakpoints(p);
	DONE();
}
