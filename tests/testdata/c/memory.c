// The address space: brk, mmap in its forms, mremap, mprotect, big bss, files.
#include "guest.h"
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char big[200 << 20] __attribute__((aligned(4096)));
static char data[100000] = {1};
static sigjmp_buf env;

static void on(int sig) { siglongjmp(env, sig); }

// probe writes to p and returns the signal, or 0.
static int probe(volatile char *p, int write)
{
	int sig = sigsetjmp(env, 1);
	if (sig == 0) {
		char c = *p;
		if (write)
			*p = c;
	}
	return sig;
}

int main(void)
{
	const int rw = PROT_READ | PROT_WRITE;

	signal(SIGSEGV, on);
	signal(SIGBUS, on);
	// bss is zero, at both ends and everywhere, and data isn't.
	for (size_t i = 0; i < sizeof big; i += 4096)
		CHECK(big[i] == 0);
	big[0] = big[sizeof big - 1] = 1;
	CHECK(data[0] == 1 && data[99999] == 0);

	char *start = sbrk(0);
	CHECK(start != (char *)-1);
	CHECK(sbrk(1 << 20) == start);
	memset(start, 7, 1 << 20);
	CHECK(sbrk(0) == start + (1 << 20));
	CHECK(brk(start) == 0 && sbrk(0) == start);
	CHECK(sbrk(4096) == start && start[0] == 0);

	char *p = mmap(NULL, 1 << 20, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED && p[12345] == 0);
	CHECK(mprotect(p + 4096, 4096, PROT_NONE) == 0);
	printf("none %d %d\n", probe(p + 4096, 0), probe(p + 8192, 1));
	CHECK(mprotect(p + 4096, 4096, PROT_READ) == 0);
	printf("read only %d %d\n", probe(p + 4096, 0), probe(p + 4096, 1));
	CHECK(munmap(p + 8192, 4096) == 0);
	printf("hole %d %d %d\n", probe(p + 8191, 0), probe(p + 8192, 0), probe(p + 12288, 1));
	CHECK(mmap(p + 8192, 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + 8192);
	CHECK(mmap(p + 8192, 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
	CHECK(mmap((void *)8, 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, 0, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, 4096, rw, MAP_PRIVATE, -1, 0) == MAP_FAILED && errno == EBADF);

	p[0] = 42;
	char *q = mremap(p, 4096, 1 << 22, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && q[0] == 42);
	q[(1 << 22) - 1] = 1;
	CHECK(mremap(q, 1 << 22, 4096, 0) == q);
	printf("shrunk %d\n", probe(q + 8192, 0));

	// A file: shared, private, beyond its end.
	int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0644);
	CHECK(ftruncate(fd, 5000) == 0);
	char *s = mmap(NULL, 12288, rw, MAP_SHARED, fd, 0);
	char *v = mmap(NULL, 8192, rw, MAP_PRIVATE, fd, 0);
	strcpy(s, "shared");
	CHECK(!strcmp(v, "shared"));
	v[0] = 'S';
	CHECK(s[0] == 's' && msync(s, 8192, MS_SYNC) == 0);
	printf("beyond the end %d\n", probe(s + 8192, 0));
	char buf[10];
	CHECK(pread(fd, buf, 6, 0) == 6 && !memcmp(buf, "shared", 6));
	CHECK(munmap(s, 12288) == 0 && munmap(v, 8192) == 0);
	CHECK(madvise(big, 1 << 20, MADV_DONTNEED) == 0 && big[0] == 0);

	// A shared anonymous mapping survives fork as one.
	int *shared = mmap(NULL, 4096, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fork() == 0) {
		*shared = 77;
		_exit(0);
	}
	wait(NULL);
	CHECK(*shared == 77);
	// System calls with bad addresses.
	CHECK(syscall(SYS_read, fd, 16, 10) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_write, fd, 0x800000000000, 10) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_open, 8, O_RDONLY) == -1 && errno == EFAULT);
	// Low addresses, where a program may ask for memory.
	p = mmap((void *)0x10000000, 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(p == MAP_FAILED || p == (char *)0x10000000);
	p = mmap(NULL, 1 << 20, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	CHECK(p != MAP_FAILED && (uintptr_t)p < 1u << 31);
	p[5] = 1;
	// Much address space, little memory.
	p = mmap(NULL, 1ull << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(p != MAP_FAILED && munmap(p, 1ull << 40) == 0);
	struct rlimit rl;
	CHECK(getrlimit(RLIMIT_STACK, &rl) == 0 && rl.rlim_cur >= 1 << 20);
	// Threads of allocation.
	uint64_t seed = 5, sum = 0;
	char *blocks[100] = {0};
	for (int i = 0; i < 20000; i++) {
		int k = mix(&seed) % 100;
		size_t n = mix(&seed) % 300000 + 8;
		free(blocks[k]);
		blocks[k] = malloc(n);
		CHECK(blocks[k] != NULL);
		blocks[k][0] = k;
		blocks[k][n - 1] = k;
		sum += n;
	}
	printf("allocated %lu\n", sum);
	DONE();
}
