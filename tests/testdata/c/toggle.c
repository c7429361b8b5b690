// Memory for code that is made writable and executable in turn, so often that
// the supervisor leaves it to the agent; and all that must be right then: what
// /proc says, faults, parts of the range, memory that goes away under it,
// processes, threads, signals, filters. With the argument "count" it only
// toggles, 20,000 times.
#include "code.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

enum { R = PROT_READ, RW = PROT_READ | PROT_WRITE, RX = PROT_READ | PROT_EXEC, RWX = RW | PROT_EXEC, PAGE = 4096 };

// store stores a byte and returns 0, or -code of the signal that came instead.
static long store(unsigned char *p, int v)
{
	if (sigsetjmp(env, 1) == 0) {
		*(volatile unsigned char *)p = v;
		return 0;
	}
	CHECK(seen.si_signo == SIGSEGV && seen.si_addr == p);
	return -seen.si_code;
}

// set writes a function that returns v.
static void set(unsigned char *p, int v)
{
	p[0] = 0xb8; // mov eax,v
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

// turn makes p writable, writes a function there and makes p executable.
static void turn(unsigned char *p, size_t n, int v)
{
	CHECK(mprotect(p, n, RW) == 0);
	set(p, v);
	CHECK(mprotect(p, n, RX) == 0);
}

// turned returns n bytes that are toggled often already, with a function that returns 100.
static unsigned char *turned(size_t n)
{
	unsigned char *p = map(n, RW);
	long sum = 0;
	for (int i = 0; i < 60; i++) {
		turn(p, n, i);
		sum += ((fn)p)(0);
	}
	CHECK(sum == 59 * 30);
	turn(p, n, 100);
	CHECK(((fn)p)(0) == 100);
	return p;
}

// shown prints what /proc/self/maps says of a page.
static void shown(const char *what, unsigned char *p)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	while (fgets(line, sizeof line, f)) {
		unsigned long lo, hi;
		char perms[5];
		if (sscanf(line, "%lx-%lx %4s", &lo, &hi, perms) == 3 && lo <= (unsigned long)p && (unsigned long)p < hi)
			printf("%s %s\n", what, perms);
	}
	fclose(f);
}

static void protections(void)
{
	unsigned char *p = turned(2 * PAGE);
	static const int prots[] = {RX, RW, R, RX, RWX, RW, R, RWX, PROT_NONE, RX, RW, PROT_EXEC, RW, PROT_WRITE, RX};

	for (unsigned i = 0; i < sizeof prots / sizeof *prots; i++) {
		CHECK(mprotect(p, 2 * PAGE, prots[i]) == 0);
		shown("prot", p + PAGE);
		printf("%u: %ld %ld\n", i, call(p, 0), store(p + 7, i));
		for (int k = 0; k < 30; k++) {
			CHECK(mprotect(p, 2 * PAGE, RW) == 0);
			CHECK(mprotect(p, 2 * PAGE, prots[i]) == 0);
		}
		printf("%u: %ld %ld\n", i, call(p, 0), store(p + 7, i));
		turn(p, 2 * PAGE, 100 + i);
	}
	// A length that is no number of pages, and what the kernel refuses.
	CHECK(mprotect(p, PAGE + 1, RW) == 0);
	set(p, 5);
	CHECK(mprotect(p, 2 * PAGE - 1, RX) == 0);
	printf("length %ld\n", call(p, 0));
	CHECK(mprotect(p, 2 * PAGE, RX | PROT_GROWSDOWN) == -1 && errno == EINVAL);
	CHECK(mprotect(p, 2 * PAGE, 0x80) == -1 && errno == EINVAL);
	CHECK(mprotect(p + 1, 2 * PAGE, RW) == -1 && errno == EINVAL);
	CHECK(mprotect(p, 0, RW) == 0);
	CHECK(mprotect(p, -PAGE, RW) == -1 && errno == ENOMEM);
	printf("refused %ld %ld\n", call(p, 0), store(p, 0));
	struct rlimit none = {PAGE, RLIM_INFINITY}, old;
	CHECK(getrlimit(RLIMIT_DATA, &old) == 0);
	none.rlim_max = old.rlim_max;
	CHECK(setrlimit(RLIMIT_DATA, &none) == 0);
	CHECK(mprotect(p, 2 * PAGE, RW) == -1 && errno == ENOMEM);
	CHECK(setrlimit(RLIMIT_DATA, &old) == 0);
	printf("limit %ld %ld\n", call(p, 0), store(p, 0));
	turn(p, 2 * PAGE, 6);
	printf("again %ld\n", call(p, 0));
	// A range with a hole: what lies before that changes.
	for (int i = 0; i < 2; i++) {
		unsigned char *q = map(4 * PAGE, RW);
		set(q, 1);
		set(q + PAGE, 2);
		set(q + 3 * PAGE, 3);
		CHECK(mprotect(q, 4 * PAGE, RX) == 0 && munmap(q + 2 * PAGE, PAGE) == 0);
		if (i)
			CHECK(mprotect(q, PAGE, RW) == 0 && mprotect(q, PAGE, RX) == 0);
		CHECK(mprotect(q, 4 * PAGE, RW) == -1 && errno == ENOMEM);
		printf("hole %ld %ld %ld", call(q, 0), call(q + PAGE, 0), call(q + 3 * PAGE, 0));
		printf(" %ld %ld\n", store(q + 9, 0), store(q + 3 * PAGE + 9, 0));
		munmap(q, 4 * PAGE);
	}
	munmap(p, 2 * PAGE);
}

static void parts(void)
{
	for (int i = 0; i < 4; i++) {
		unsigned char *p = turned(4 * PAGE);
		CHECK(mprotect(p, 4 * PAGE, RW) == 0);
		for (int k = 0; k < 4; k++)
			set(p + k * PAGE, k);
		set(p + PAGE - 3, 77); // across a border
		CHECK(mprotect(p, 4 * PAGE, RX) == 0);
		printf("all %ld %ld\n", call(p + 3 * PAGE, 0), call(p + PAGE - 3, 0));
		CHECK(mprotect(p + i * PAGE, PAGE, RW) == 0);
		for (int k = 0; k < 4; k++)
			printf("part %d: %ld %ld\n", k, call(p + k * PAGE, 0), store(p + k * PAGE + 100, 1));
		for (int k = 0; k < 30; k++)
			turn(p + i * PAGE, PAGE, k);
		CHECK(mprotect(p, 4 * PAGE, RX) == 0);
		for (int k = 0; k < 4; k++)
			printf("whole %d: %ld\n", k, call(p + k * PAGE, 0));
		munmap(p, 4 * PAGE);
	}
	// A page of its own after one that stays executable, with a function across the border.
	unsigned char *p = map(2 * PAGE, RW), *q = p + PAGE - 3;
	set(q, 9);
	set(p + PAGE - 1, 0); // its mov is in the first page, its operand in the second
	set(q, 9);
	CHECK(mprotect(p, 2 * PAGE, RX) == 0);
	for (int i = 0; i < 40; i++) {
		if (call(q, 0) != 9)
			printf("border\n");
		CHECK(mprotect(p + PAGE, PAGE, RW) == 0);
		if (sigsetjmp(env, 1) == 0) {
			((fn)q)(0);
			printf("no fault\n");
		}
		CHECK(seen.si_signo == SIGSEGV && seen.si_addr == p + PAGE);
		CHECK(mprotect(p + PAGE, PAGE, RX) == 0);
	}
	munmap(p, 2 * PAGE);
}

static void gone(void)
{
	for (int i = 0; i < 2; i++) { // executable, writable
		unsigned char *p = turned(PAGE);
		if (i)
			CHECK(mprotect(p, PAGE, RW) == 0);
		CHECK(munmap(p, PAGE) == 0);
		printf("unmapped %ld %d\n", call(p, 0), mprotect(p, PAGE, RX));
		CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
		set(p, 200);
		printf("mapped %ld\n", call(p, 0));
		CHECK(mprotect(p, PAGE, RX) == 0);
		printf("executable %ld %ld\n", call(p, 0), store(p, 0));

		unsigned char *to = map(PAGE, PROT_NONE);
		for (int k = 0; k < 40; k++)
			turn(p, PAGE, k);
		if (i)
			CHECK(mprotect(p, PAGE, RW) == 0);
		CHECK(mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
		printf("moved %ld %ld\n", call(p, 0), call(to, 0));
		for (int k = 0; k < 40; k++)
			turn(to, PAGE, k);
		printf("turned %ld\n", call(to, 0));

		// Over it, memory that is shared and written through another mapping.
		int fd = memfd_create("code", 0);
		CHECK(ftruncate(fd, PAGE) == 0);
		unsigned char *w = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
		set(w, 300);
		CHECK(mmap(to, PAGE, i ? RW : RX, MAP_SHARED | MAP_FIXED, fd, 0) == to);
		for (int k = 0; k < 40; k++) {
			CHECK(mprotect(to, PAGE, RW) == 0 && mprotect(to, PAGE, RX) == 0);
			set(w, k);
			CHECK(((fn)to)(0) == k);
		}
		CHECK(mmap(to, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == to);
		printf("over it %ld\n", call(to, 0));
		CHECK(madvise(to, PAGE, MADV_DONTNEED) == 0);
		turn(to, PAGE, 301);
		for (int k = 0; k < 40; k++)
			turn(to, PAGE, k);
		CHECK(mprotect(to, PAGE, RW) == 0 && madvise(to, PAGE, MADV_DONTNEED) == 0 && to[0] == 0);
		turn(to, PAGE, 302);
		printf("emptied %ld\n", call(to, 0));
		munmap(w, PAGE);
		munmap(to, PAGE);
		close(fd);
	}
}

static void processes(void)
{
	unsigned char *p = turned(PAGE);
	long sum = 0;

	for (int i = 0; i < 12; i++) {
		int ready[2], status;
		CHECK(pipe(ready) == 0);
		if (i % 2)
			CHECK(mprotect(p, PAGE, RW) == 0);
		pid_t pid = i % 4 == 2 ? vfork() : fork();
		if (pid == 0) {
			if (i % 4 == 2) {
				turn(p, PAGE, 7); // of the parent as well
				_exit(7);
			}
			char c;
			if (read(ready[0], &c, 1) != 1 || call(p, 0) != (i % 2 ? -SEGV_ACCERR : 100 + i))
				_exit(1);
			for (int k = 0; k < 40; k++)
				turn(p, PAGE, k);
			_exit(((fn)p)(0) == 39 && store(p, 1) == -SEGV_ACCERR ? 2 : 3);
		}
		CHECK(i % 4 != 2 || ((fn)p)(0) == 7);
		for (int k = 0; k < 20; k++)
			turn(p, PAGE, k);
		CHECK(mprotect(p, PAGE, i % 3 ? RX : RW) == 0 && write(ready[1], "x", 1) == 1);
		CHECK(waitpid(pid, &status, 0) == pid);
		sum = sum * 10 + WEXITSTATUS(status);
		CHECK(call(p, 0) == (i % 3 ? 19 : -SEGV_ACCERR));
		turn(p, PAGE, 101 + i);
		close(ready[0]);
		close(ready[1]);
	}
	printf("processes %ld\n", sum);
	munmap(p, PAGE);
}

static unsigned char *both;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;

// turner toggles a page of its own, then one page in turn with another thread, then without.
static void *turner(void *arg)
{
	int me = (int)(intptr_t)arg;
	unsigned char *own = both + (1 + me) * PAGE;
	for (int i = 0; i < 2000; i++) {
		turn(own, PAGE, i);
		CHECK(((fn)own)(0) == i);
	}
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 1000; i++) {
		pthread_mutex_lock(&lock);
		turn(both, PAGE, 2 * i + me);
		CHECK(((fn)both)(0) == 2 * i + me);
		pthread_mutex_unlock(&lock);
	}
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 3000; i++)
		CHECK(mprotect(both, PAGE, (i + me) % 2 ? RX : RW) == 0);
	return NULL;
}

static void threads(void)
{
	pthread_t t[2];

	both = map(3 * PAGE, RW);
	pthread_barrier_init(&barrier, NULL, 2);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&t[i], NULL, turner, (void *)(intptr_t)i) == 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 60; i++) {
		CHECK(mprotect(both, PAGE, RW) == 0);
		set(both, i);
		CHECK(call(both, 0) == -SEGV_ACCERR);
		CHECK(mprotect(both, PAGE, RX) == 0);
		CHECK(call(both, 0) == i && store(both, 0) == -SEGV_ACCERR);
	}
	printf("threads %ld %ld %ld\n", call(both, 0), call(both + PAGE, 0), call(both + 2 * PAGE, 0));
	munmap(both, 3 * PAGE);
}

static unsigned char *ticking;
static volatile int ticks;

// tick toggles too.
static void tick(int sig)
{
	(void)sig;
	int old = errno;
	if (++ticks % 3 == 0) {
		turn(ticking, PAGE, ticks);
		CHECK(((fn)ticking)(0) == ticks);
	} else {
		CHECK(mprotect(ticking, PAGE, RX) == 0);
	}
	errno = old;
}

// protect is mprotect with values in all registers, which must be there after it, and so must the flags.
static void protect(void *p, long prot)
{
	uint64_t in[8], out[8], flags;
	long result;
	for (int i = 0; i < 8; i++)
		in[i] = 0x0123456789abcdef * (i + prot + 1);
	register uint64_t r8 __asm__("r8") = in[0], r9 __asm__("r9") = in[1], r10 __asm__("r10") = in[2], r12 __asm__("r12") = in[3];
	register uint64_t r13 __asm__("r13") = in[4], r14 __asm__("r14") = in[5], r15 __asm__("r15") = in[6];
	uint64_t rdi = (uint64_t)p, rsi = PAGE, rdx = prot, r11;
	__asm__ volatile("mov $0x7fffffff, %%ecx; add $1, %%ecx; stc; syscall; mov %%r11, %[r11]; pushf; pop %%rcx"
		: "=a"(result), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r8), "+r"(r9), "+r"(r10), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15), "=&c"(flags), [r11] "=m"(r11)
		: "0"(10L) : "r11", "memory", "cc");
	out[0] = r8, out[1] = r9, out[2] = r10, out[3] = r12, out[4] = r13, out[5] = r14, out[6] = r15;
	CHECK(result == 0 && memcmp(in, out, 7 * 8) == 0 && rdi == (uint64_t)p && rsi == PAGE && rdx == (uint64_t)prot);
	CHECK((flags & 0x8d5) == 0x895 && (r11 & 0x8d5) == 0x895); // OF SF AF PF CF
}

static void signals(void)
{
	struct sigaction sa = {.sa_handler = tick, .sa_flags = SA_RESTART};
	struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
	unsigned char *p = turned(PAGE);
	ticking = turned(PAGE);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < 3000 || ticks < 60; i++) {
		protect(p, RW);
		set(p, i);
		protect(p, i % 5 ? RX : RWX);
		CHECK(((fn)p)(0) == i);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	printf("signals %d\n", call(p, 0) > 0);
	munmap(p, PAGE);
	munmap(ticking, PAGE);
}

// restricted toggles in processes that give something up.
static void restricted(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof code / sizeof *code, code};
	unsigned char *p = turned(PAGE);

	for (int i = 0; i < 3; i++) {
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0) {
			for (int k = 0; k < 40; k++)
				turn(p, PAGE, k);
			switch (i) {
			case 0:
				CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0);
				break;
			case 1:
				CHECK(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0);
				break;
			case 2: // SIGSEGV is blocked and pending: the handler comes later
				sigprocmask(SIG_BLOCK, &(sigset_t){{1 << (SIGSEGV - 1)}}, NULL);
				raise(SIGSEGV);
			}
			for (int k = 0; k < 3; k++) {
				CHECK(mprotect(p, PAGE, RW) == 0);
				set(p, 50 + k);
				printf("restricted %d: %d", i, mprotect(p, PAGE, RX));
				printf(" %d\n", i == 2 ? (int)((fn)p)(0) : (int)call(p, 0));
			}
			DONE();
		}
		int status;
		CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
	munmap(p, PAGE);
}

// hot executes code so often between two turns that it counts as settled.
static void hot(void)
{
	unsigned char *p = turned(PAGE);
	long sum = 0;
	for (int i = 0; i < 8; i++) {
		for (int k = 0; k < 60000; k++)
			sum += ((fn)p)(0);
		for (int k = 0; k < (i % 2 ? 1 : 40); k++) {
			turn(p, PAGE, i);
			sum += ((fn)p)(0);
		}
		CHECK(mprotect(p, PAGE, RW) == 0 && call(p, 0) == -SEGV_ACCERR);
		turn(p, PAGE, i + 1);
	}
	printf("hot %ld\n", sum);
	munmap(p, PAGE);
}

// many has more ranges than the agent keeps.
static void many(void)
{
	enum { N = 50 };
	unsigned char *p = map(2 * N * PAGE, RW);
	long sum = 0;
	for (int i = 0; i < 40; i++)
		for (int k = 0; k < N; k++) {
			turn(p + 2 * k * PAGE, PAGE * (1 + (k & i >> 4 & 1)), i + k);
			sum = sum * 3 + ((fn)(p + 2 * k * PAGE))(0);
		}
	for (int k = 0; k < N; k++)
		CHECK(store(p + 2 * k * PAGE, 0) == -SEGV_ACCERR && call(p + 2 * k * PAGE, 0) == 39 + k);
	printf("many %ld\n", sum);
	munmap(p, 2 * N * PAGE);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
	(void)argv;
	if (argc > 1) {
		unsigned char *p = turned(PAGE);
		for (int i = 0; i < 20000; i++) {
			turn(p, PAGE, i);
			CHECK(((fn)p)(0) == i);
		}
		DONE();
	}
	sigaction(SIGSEGV, &sa, NULL);
	protections();
	parts();
	gone();
	processes();
	threads();
	signals();
	restricted();
	hot();
	many();
	DONE();
}
