// A guest whose memory the host program watches, pages and tracks (tests/host). argv[1] names what it does; by ud2 it asks
// the host for something, and waits until that is done.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { page = 4096 };

// host asks for op on memory.
static uint64_t host(uint64_t op, void *addr, uint64_t length) {
	__asm__ volatile("ud2" : "+a"(op) : "b"(addr), "c"(length) : "memory");
	return op;
}

enum { start = 1, next = 2, stop = 3 };

static char *memory(int pages) {
	char *m = mmap(0, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		exit(9);
	return m;
}

// showMaps prints the lines of /proc/self/maps from m on for a number of pages, relative to it.
static void showMaps(char *m, int pages) {
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512], prot[8];
	uint64_t lo, hi;
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "%lx-%lx %7s", &lo, &hi, prot) == 3 && lo < (uint64_t)m + pages * page && hi > (uint64_t)m) {
			uint64_t from = lo < (uint64_t)m ? 0 : lo - (uint64_t)m, to = hi - (uint64_t)m;
			printf("%lu-%lu %s\n", from / page, to > (uint64_t)pages * page ? pages : to / page, prot);
		}
	fclose(f);
}

static sigjmp_buf back;
static volatile int code;
static void *volatile where;

static void onFault(int sig, siginfo_t *si, void *context) {
	code = sig * 100 + si->si_code;
	where = si->si_addr;
	siglongjmp(back, 1);
}

static void handle(void) {
	struct sigaction sa = {.sa_sigaction = onFault, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &sa, 0);
	sigaction(SIGBUS, &sa, 0);
}

// Accesses of many kinds to two pages that are watched, between two that are not.
static void watch(void) {
	char *m = memory(4);
	volatile uint64_t *v = (void *)(m + page);
	host(start, m + page, 2 * page);
	v[0] = 5;
	v[1] = v[0] + 1;
	*(volatile uint64_t *)(m + 2 * page - 4) = 0x1122334455667788; // over the border
	uint64_t flags;
	__asm__ volatile("mov %%rsp, %%r12\n\tlea 64(%1), %%rsp\n\tpushfq\n\tpop %0\n\tcall 1f\n1:\tpop %%r13\n\tmov %%r12, %%rsp"
	                 : "=&r"(flags) : "r"(m + 2 * page) : "r12", "r13", "memory", "cc");
	m[0] = m[3 * page] = 1;
	host(stop, 0, 0);
	printf("%lu %lx tf %lu\n", v[1], *(uint64_t *)(m + 2 * page - 4), flags >> 8 & 1);
	v[2] = 1; // not watched any more
}

// String instructions over the borders of a watched page.
static void string(void) {
	char *m = memory(3), *from = memory(1);
	for (int i = 0; i < page; i++)
		from[i] = i * 7;
	host(start, m + page, page);
	void *to = m + page - 64, *src = from;
	uint64_t n = 32;
	__asm__ volatile("rep movsq" : "+D"(to), "+S"(src), "+c"(n) : : "memory");
	to = m + 2 * page - 64;
	n = 128;
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(3) : "memory");
	host(stop, 0, 0);
	printf("%d %d %d\n", memcmp(m + page - 64, from, 256), m[2 * page - 64], m[2 * page + 63]);
}

// A store through a bad pointer in rdx, which r12 has right, to protected memory; and one that the guest handles.
static void protect(void) {
	char *m = memory(2);
	handle();
	host(start, m, page);
	if (!sigsetjmp(back, 1))
		m[8] = 1;
	printf("%d %d\n", code, where == m + 8);
	printf("%d", (int)read(open("/proc/self/exe", 0), m, 4));
	printf(" %d\n", errno == EFAULT);
	host(next, m, page);
	m[8] = 1;
	printf("%d\n", m[8]);
}

static void calls(void) {
	char *m = memory(4), text[3 * page];
	int fd[2];
	if (pipe(fd))
		exit(9);
	memset(text, 'x', sizeof text);
	if (write(fd[1], text, sizeof text) != sizeof text)
		exit(9);
	host(start, m + page, 2 * page);
	printf("%ld\n", (long)read(fd[0], m + 10, 2 * page)); // over all of it
	struct iovec v[2] = {{m, 10}, {m + page, 5}};
	printf("%ld\n", (long)readv(fd[0], v, 2));
	printf("%ld\n", (long)write(fd[1], m + 2 * page, 7));
	host(stop, 0, 0);
	printf("%c%c%c\n", m[10], m[page], m[2 * page + 9]);
}

static void *sum(void *m) {
	uint64_t s = 0;
	for (int i = 0; i < 64; i++)
		s += *(volatile uint64_t *)((char *)m + i * page + 8 * i);
	return (void *)s;
}

static void paging(void) {
	char *m = memory(70);
	host(start, m, 64 * page);
	if (write(2, m + 63 * page, 5) != 5)
		exit(9);
	pthread_t t[4];
	void *s;
	pid_t child = fork();
	if (child == 0) {
		printf("child %lu\n", (uint64_t)sum(m));
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, 0, 0);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], 0, sum, m);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &s);
		printf("%lu\n", (uint64_t)s);
	}
	m[0] = 1;
	printf("%d %d\n", m[0], m[65 * page]);
}

// Code that the host fills.
static void pagedCode(void) {
	char *m = mmap(0, 5 * page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	host(start, m, 5 * page);
	int total = 0;
	for (int i = 3; i >= 0; i--)
		total = total * 10 + ((int (*)(void))(m + i * page + page - 3))(); // goes on in the next page
	printf("%d\n", total);
}

static void badPaging(void) {
	char *m = memory(2);
	handle();
	host(start, m, page);
	if (!sigsetjmp(back, 1))
		printf("%d\n", m[8]);
	printf("%d %d\n", code, where == m + 8);
	printf("%d", (int)write(1, m, 4));
	printf(" %d\n", errno == EFAULT);
}

static void *touch(void *m) {
	volatile char local[2 * page]; // the stack is tracked
	local[0] = 1;
	*(char *)m = local[0];
	return 0;
}

static void dirty(void) {
	char *m = memory(64), *stack = memory(64);
	int fd[2];
	if (pipe(fd) || write(fd[1], "abc", 3) != 3)
		exit(9);
	m[page] = 1;
	host(start, m, 64 * page);
	m[3 * page] = m[5 * page] = m[5 * page + 1] = m[3 * page] + m[9 * page] + 1;
	host(next, 0, 0);
	m[5 * page] = 2;
	if (read(fd[0], m + 7 * page, 3) != 3 || write(fd[1], m + 8 * page, 3) != 3)
		exit(9);
	host(next, 0, 0);
	host(next, 0, 0);
	pid_t child = fork();
	if (child == 0) {
		m[20 * page] = 1;
		_exit(m[5 * page]);
	}
	int status;
	waitpid(child, &status, 0);
	host(next, 0, 0);
	host(stop, stack, 64 * page); // tracks that too
	pthread_attr_t a;
	pthread_attr_init(&a);
	pthread_attr_setstack(&a, stack, 64 * page);
	pthread_t t;
	if (pthread_create(&t, &a, touch, m) || pthread_join(t, 0))
		exit(9);
	host(next, 0, 0);
	printf("%d %d %.3s\n", WEXITSTATUS(status), m[3 * page], m + 7 * page);
}

// The guest's own view of its memory, and its own changes of it.
static void mapping(void) {
	char *m = memory(8);
	handle();
	host(start, m + page, 6 * page);
	showMaps(m, 8);
	mprotect(m + 2 * page, page, PROT_READ);
	showMaps(m, 8);
	m[page] = 1; // told
	if (!sigsetjmp(back, 1))
		m[2 * page] = 1; // not told: the guest has forbidden it
	printf("%d\n", code);
	mprotect(m + 2 * page, page, PROT_READ | PROT_WRITE);
	m[2 * page] = 1; // told
	mmap(m + 3 * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	m[3 * page] = 1; // not told
	munmap(m + 4 * page, page);
	m[5 * page] = 1; // told
	char *moved = mremap(m + 6 * page, page, 2 * page, MREMAP_MAYMOVE);
	moved[0] = 1; // not told
	host(stop, 0, 0);
	printf("%d %d %d %d %d\n", m[page], m[2 * page], m[3 * page], m[5 * page], moved[0]);
}

// Code in a watched page that the guest changes.
static void generated(void) {
	unsigned char *m = mmap(0, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(m, "\xb8\x01\x00\x00\x00\xc3", 6); // mov $1, %eax; ret
	int (*f)(void) = (void *)m;
	long total = 0;
	for (int i = 0; i < 300000; i++) // much, so that the page settles
		total += f();
	host(start, m, page);
	for (int n = 2; n < 6; n++) {
		m[1] = n; // told
		for (int i = 0; i < 100000; i++)
			total += f();
	}
	host(stop, 0, 0);
	m[1] = 6;
	printf("%ld %d\n", total, f());
}

// The guest changes the protection of memory that a tool was to be about, which did not start.
static void failed(void) {
	char *m = memory(3);
	handle();
	munmap(m + 2 * page, page);
	host(start, m, 3 * page); // an error
	mprotect(m + page, page, PROT_READ);
	host(next, m, 2 * page);
	if (!sigsetjmp(back, 1))
		m[page] = 1;
	printf("%d\n", code);
}

static void *count(void *m) {
	for (int i = 0; i < 300; i++)
		__atomic_fetch_add((long *)m, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static void onAlarm(int sig) {}

static void threads(void) {
	char *m = memory(1);
	signal(SIGUSR1, onAlarm);
	host(start, m, page);
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], 0, count, m);
	for (int i = 0; i < 100; i++)
		kill(getpid(), SIGUSR1);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], 0);
	printf("%ld\n", *(long *)m);
}

// Stores that the host answers in different ways.
static void answers(void) {
	volatile uint64_t *v = (void *)memory(1);
	handle();
	host(start, (void *)v, page);
	for (volatile uint64_t n = 1; n < 5; n++) {
		code = 0;
		if (!sigsetjmp(back, 1))
			__asm__ volatile("mov %1, (%0)" : : "r"(v), "a"(n) : "memory");
		printf("%d\n", code);
	}
	host(stop, 0, 0);
	printf("%lu\n", *v);
}

static volatile int steps;

static void onStep(int sig) { steps++; }

// A program that steps itself gets as many traps as without a watch.
static void stepping(void) {
	char *m = memory(1);
	signal(SIGTRAP, onStep);
	for (int i = 0; i < 2; i++) {
		steps = 0;
		uint64_t flags;
		__asm__ volatile("pushfq\n\tpop %0\n\tmov %0, %%r12\n\tor $0x100, %%r12\n\tpush %%r12\n\tpopfq\n\t"
		                 "movq $1, (%1)\n\tnop\n\taddq $1, 8(%1)\n\tmov (%1), %%r13\n\tpush %0\n\tpopfq\n\tnop"
		                 : "=&r"(flags) : "r"(m) : "r12", "r13", "memory", "cc");
		printf("%d\n", steps);
		if (i == 0)
			host(start, m, page);
	}
}

// Tools that the host starts on its own, while the guest runs.
static void outside(void) {
	volatile char *m = memory(1);
	printf("%p\n", m);
	fflush(stdout);
	while (!m[8])
		m[0]++;
	puts("seen");
}

// One page of several that are watched is used when the kernel has no room for more mappings: opening it would split one.
static void full(void) {
	long most = 0; // pages, of which each is a mapping in the end
	FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
	if (!f || fscanf(f, "%ld", &most) != 1 || most >= 1 << 20) {
		puts("no limit");
		return;
	}
	most += 2;
	char *m = memory(8);
	host(start, m + 2 * page, 4 * page);
	char *many = mmap(0, most * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	long i = 0;
	while (i < most && mprotect(many + i * page, page, PROT_READ) == 0)
		i += 2;
	puts(i < most && errno == ENOMEM ? "full" : "room");
	fflush(stdout);
	m[3 * page] = 1;
	puts("used");
}

// obey prints the address of m and who obeys: a store to m for each character that the host writes, which is read to c.
static void obey(volatile char *m, char *c) {
	char text[64];
	for (int n = sprintf(text, "%p %d\n", m, getpid()); write(1, text, n) == n && read(0, c, 1) == 1; n = sprintf(text, "done\n"))
		m[0]++;
}

static int ends[2]; // of a pipe

static void *awaitEnd(void *result) {
	struct epoll_event e = {.events = EPOLLIN};
	int ep = epoll_create1(0);
	if (epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &e))
		exit(9);
	*(int *)result = epoll_wait(ep, &e, 1, -1);
	return 0;
}

static void *readEnd(void *to) {
	if (read(ends[0], to, 3) != 3)
		exit(9);
	return 0;
}

// Threads that sleep in system calls, some with pointers to the memory that the host wants to see used.
static void asleep(void) {
	char *m = memory(2);
	int ready;
	if (pipe(ends))
		exit(9);
	pthread_t t[2];
	pthread_create(&t[0], 0, awaitEnd, &ready);
	pthread_create(&t[1], 0, readEnd, m + page + 8);
	obey(m, m + page);
	if (write(ends[1], "abcdef", 6) != 6)
		exit(9);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], 0);
	printf("%d %s %d\n", m[0], m + page + 8, ready);
}

static int sharer(void *m) {
	char c;
	obey(m, &c);
	return 0;
}

// A process that shares the memory of the first one, which is killed.
static void sharing(void) {
	char *m = memory(1), *stack = memory(16);
	if (clone(sharer, stack + 16 * page, CLONE_VM | SIGCHLD, m) < 0)
		exit(9);
	for (;;)
		pause();
}

static void *spin(void *unused) {
	for (;;)
		__asm__ volatile("pause");
}

// Children of which each has memory that no tool is about, whatever the host does to the parent's when they are made.
static void forking(void) {
	char *m = memory(4);
	pthread_t t;
	pthread_create(&t, 0, spin, 0); // hands off when the host wants that
	printf("%p\n", m);
	fflush(stdout);
	int bad = 0;
	for (int i = 0; i < 200; i++) {
		int status;
		pid_t child = fork();
		if (child == 0) {
			m[0] = m[3 * page]++;
			_exit(0);
		}
		bad += child < 0 || waitpid(child, &status, 0) != child || status != 0;
	}
	printf("%d\n", bad);
}

// The kernel stores the id of a new process into a page that the host fills.
static void newborn(void) {
	int *id = (int *)memory(1), status;
	host(start, id, page);
	pid_t child = syscall(SYS_clone, SIGCHLD | CLONE_CHILD_SETTID, 0, 0, id, 0);
	if (child == 0)
		_exit(*id != getpid());
	waitpid(child, &status, 0);
	printf("%d\n", status);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		void (*f)(void);
	} modes[] = {
		{"watch", watch}, {"string", string}, {"protect", protect}, {"calls", calls}, {"paging", paging},
		{"bad", badPaging}, {"code", pagedCode}, {"dirty", dirty}, {"mapping", mapping}, {"generated", generated}, {"threads", threads},
		{"outside", outside}, {"failed", failed}, {"answers", answers}, {"stepping", stepping}, {"full", full},
		{"asleep", asleep}, {"sharing", sharing}, {"forking", forking}, {"newborn", newborn},
	};
	for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
		if (argc > 1 && strcmp(argv[1], modes[i].name) == 0) {
			modes[i].f();
			return 0;
		}
	return 2;
}
