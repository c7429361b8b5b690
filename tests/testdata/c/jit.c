// Code that the program writes: W^X by mprotect, writable and executable
// pages, one function rewritten many times, two mappings of one memory, code
// on both sides of a page border, code freed and mapped again.
#include "guest.h"

typedef int (*fn)(void);

// put writes "mov $v, %eax; ret".
static void put(unsigned char *p, int v)
{
	p[0] = 0xb8;
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

static unsigned char *map(size_t n, int prot)
{
	unsigned char *p = mmap(NULL, n, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

int main(void)
{
	const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC, rwx = rw | PROT_EXEC;
	long sum = 0;

	// Toggled between writable and executable.
	unsigned char *p = map(4096, rw);
	for (int i = 0; i < 1000; i++) {
		CHECK(mprotect(p, 4096, rw) == 0);
		put(p, i);
		CHECK(mprotect(p, 4096, rx) == 0);
		sum += ((fn)p)();
	}
	printf("toggled %ld\n", sum);

	// Writable and executable at once, rewritten after each call.
	p = map(8192, rwx);
	sum = 0;
	for (int i = 0; i < 1000; i++) {
		put(p + i % 7, i);
		sum += ((fn)(p + i % 7))();
	}
	printf("rewritten %ld\n", sum);

	// Across a page border, and half of it rewritten.
	sum = 0;
	for (int i = 0; i < 100; i++) {
		put(p + 4093, i * 0x10000);
		sum += ((fn)(p + 4093))();
		p[4096] = i;
		sum += ((fn)(p + 4093))();
	}
	printf("border %ld\n", sum);

	// Code and data that changes all the time in one page.
	volatile int *counter = (int *)(p + 2048);
	put(p, 7);
	*counter = 0;
	for (int i = 0; i < 5000; i++)
		*counter += ((fn)p)();
	printf("mixed %d\n", *counter);

	// Many functions, called through a table.
	unsigned char *many = map(1 << 16, rwx);
	for (int i = 0; i < 4000; i++)
		put(many + 16 * i, i);
	sum = 0;
	for (int round = 0; round < 5; round++)
		for (int i = 0; i < 4000; i++)
			sum += ((fn)(many + 16 * i))();
	printf("many %ld\n", sum);

	// Two mappings of one memory: written here, executed there.
	int fd = memfd_create("code", 0);
	CHECK(ftruncate(fd, 4096) == 0);
	unsigned char *w = mmap(NULL, 4096, rw, MAP_SHARED, fd, 0);
	unsigned char *x = mmap(NULL, 4096, rx, MAP_SHARED, fd, 0);
	CHECK(w != MAP_FAILED && x != MAP_FAILED);
	sum = 0;
	for (int i = 0; i < 300; i++) {
		put(w, i * 3);
		sum += ((fn)x)();
	}
	printf("shared %ld\n", sum);
	CHECK(munmap(w, 4096) == 0 && munmap(x, 4096) == 0);
	close(fd);

	// The same address again and again, with other code.
	sum = 0;
	for (int i = 0; i < 300; i++) {
		unsigned char *q = mmap(p, 4096, rwx, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		CHECK(q == p);
		put(q, i + 1);
		sum += ((fn)q)();
		if (i % 3 == 0) {
			CHECK(madvise(q, 4096, MADV_DONTNEED) == 0);
			CHECK(q[0] == 0);
			put(q, i + 2);
			sum += ((fn)q)();
		}
		if (i % 3 == 1)
			CHECK(munmap(q, 4096) == 0);
		if (i % 3 == 2) {
			// Moved, and called in the new place.
			unsigned char *r = mremap(q, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, many + (1 << 15));
			CHECK(r == many + (1 << 15));
			sum += ((fn)r)();
		}
	}
	printf("again %ld\n", sum);

	// read() into code.
	int fds[2];
	CHECK(pipe(fds) == 0);
	unsigned char code[6];
	sum = 0;
	for (int i = 0; i < 50; i++) {
		put(code, i * 5);
		CHECK(write(fds[1], code, 6) == 6);
		CHECK(read(fds[0], many, 6) == 6);
		sum += ((fn)many)();
	}
	printf("read %ld\n", sum);

	// Near, so that 32-bit addresses reach it.
	unsigned char *low = mmap(NULL, 4096, rwx, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low != MAP_FAILED) {
		put(low, 99);
		CHECK(((fn)low)() == 99 && (uintptr_t)low < 1u << 31);
	}

	// A forked child changes its own copy only.
	put(many, 1);
	CHECK(((fn)many)() == 1);
	pid_t pid = fork();
	if (pid == 0) {
		put(many, 2);
		_exit(((fn)many)());
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 2);
	CHECK(((fn)many)() == 1);
	DONE();
}
