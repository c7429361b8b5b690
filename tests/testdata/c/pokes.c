// Code that is written past the protection of its pages: through /proc/PID/mem and by process_vm_writev, by the process
// itself and by another one.
#include "guest.h"
#include <sys/uio.h>

typedef int (*fn)(int);

static const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC, rwx = PROT_READ | PROT_WRITE | PROT_EXEC;

static unsigned char *map(int prot, int shared)
{
	unsigned char *p = mmap(NULL, 8192, prot, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

// set writes a function that returns v, in one of two forms.
static size_t set(unsigned char *p, int v)
{
	if (v % 2) {
		p[0] = 0xb8; // mov eax,v
		memcpy(p + 1, &v, 4);
		p[5] = 0xc3;
		return 6;
	}
	p[0] = 0x68; // push v; pop rax
	memcpy(p + 1, &v, 4);
	memcpy(p + 5, "\x58\xc3", 2);
	return 7;
}

// hot calls a function so often that its page counts as settled.
static long hot(void *p)
{
	long sum = 0;
	for (int i = 0; i < 200000; i++)
		sum += ((fn)p)(0);
	return sum / 200000;
}

// through writes n bytes by one of the ways.
static int through(int way, int pid, void *to, const void *from, size_t n)
{
	static int mem, memOf;
	if (memOf != pid) {
		char name[40];
		snprintf(name, sizeof name, "/proc/%d/mem", pid);
		CHECK((mem = open(name, O_RDWR)) >= 0);
		memOf = pid;
	}
	struct iovec v[2] = {{(void *)from, 2}, {(char *)from + 2, n - 2}};
	switch (way) {
	case 0:
		return pwrite(mem, from, n, (off_t)to);
	case 1:
		return lseek(mem, (off_t)to, SEEK_SET) == (off_t)to ? (int)writev(mem, v, 2) : -1;
	case 2:
		return pwritev(mem, v, 2, (off_t)to);
	default: {
		char before[16];
		struct iovec local[2] = {{before, 8}, {(void *)from, n}}, remote[2] = {{(char *)to + 4096, 8}, {to, n}};
		memset(before, 7, sizeof before);
		int r = process_vm_writev(pid, local, 2, remote, 2, 0);
		return r < 8 ? r : r - 8;
	}
	}
}

static void own(const char *what, unsigned char *p, int ways)
{
	unsigned char code[16];
	long sum = 0;
	for (int i = 0; i < 12; i++) {
		size_t n = set(code, i + 10);
		CHECK(through(i % ways, getpid(), p, code, n) == (int)n);
		sum = sum * 3 + ((fn)p)(0);
		if (i % 4 < 2)
			sum += hot(p);
	}
	printf("%s %ld\n", what, sum);
}

static int to[2], from[2];

// child tells what a function returns, whenever it is asked.
static int child(void *p)
{
	int pid = fork(), warm;
	if (pid)
		return pid;
	close(to[1]);
	while (read(to[0], &warm, sizeof warm) == sizeof warm) {
		int v = warm ? hot(p) : ((fn)p)(0);
		if (write(from[1], &v, sizeof v) != sizeof v)
			break;
	}
	_exit(0);
}

static int ask(int warm)
{
	int v = -1;
	CHECK(write(to[1], &warm, sizeof warm) == sizeof warm && read(from[0], &v, sizeof v) == sizeof v);
	return v;
}

static void other(const char *what, unsigned char *p, int ways)
{
	unsigned char code[16];
	CHECK(pipe(to) == 0 && pipe(from) == 0);
	long sum = hot(p), mine = 0;
	int pid = child(p);
	for (int i = 0; i < 12; i++) {
		if (i % 4 < 2)
			sum += ask(1);
		size_t n = set(code, i + 10);
		CHECK(through(ways == 1 ? 3 : i % ways, pid, p, code, n) == (int)n);
		sum = sum * 3 + ask(0);
		mine += i % 4 == 3 ? hot(p) : ((fn)p)(0);
	}
	close(to[1]);
	CHECK(waitpid(pid, NULL, 0) == pid);
	close(to[0]), close(from[0]), close(from[1]);
	printf("%s %ld, here %ld\n", what, sum, mine);
}

__attribute__((noinline, aligned(64))) static int text(int x)
{
	__asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop" : "+r"(x));
	return x + 77;
}

int main(void)
{
	fn volatile f = text;
	unsigned char *p = map(rw, 0), *q, code[16];
	set(p, 5);
	CHECK(mprotect(p, 8192, rx) == 0);
	hot(p);
	hot(f);
	other("read-only, of a child", p, 3); // as long as no code is writable, a child has the same translations
	other("the program, of a child", (unsigned char *)f, 3);
	own("read-only", p, 3);
	own("the program", (unsigned char *)f, 3);
	size_t n = set(code, 3);
	CHECK(process_vm_writev(getpid(), &(struct iovec){code, n}, 1, &(struct iovec){p, n}, 1, 0) == -1 && errno == EFAULT);
	q = map(rwx, 0);
	set(q, 5);
	hot(q);
	own("writable", q, 4);
	other("writable, of a child", q, 1);
	other("writable, by a file", q, 3);
	q = map(rwx, 1);
	set(q, 5);
	hot(q);
	own("shared", q, 4);
	for (int i = 0; i < 60; i++) // settled for sure when the child is made
		hot(q);
	other("shared, of a child", q, 1);
	DONE();
}
