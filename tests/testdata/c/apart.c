// Code that is exactly 1 GiB from other code, where the lookup tables of the two would overlap: calls, jumps and returns between
// them, before and after a third and a fourth come, in a child, and in one mapping of more than 1 GiB.
#include "guest.h"

enum { GIB = 1 << 30 };

typedef long function(long n, void *other);

// f(n, g) = n <= 0 ? 0 : n + g(n - 1, f), by an indirect call; and the same with a jump, without adding.
static const unsigned char calls[] = {
	0x48, 0x85, 0xff,             // test rdi,rdi
	0x7e, 0x17,                   // jle 1f
	0x57,                         // push rdi
	0x48, 0xff, 0xcf,             // dec rdi
	0x48, 0x89, 0xf0,             // mov rax,rsi
	0x48, 0x8d, 0x35, 0xed, 0xff, 0xff, 0xff, // lea rsi,[rip-19]
	0xff, 0xd0,                   // call rax
	0x5f,                         // pop rdi
	0x48, 0x01, 0xf8,             // add rax,rdi
	0xc3,                         // ret
	0x90, 0x90,
	0x31, 0xc0,                   // 1: xor eax,eax
	0xc3,                         // ret
}, jumps[] = {
	0x48, 0x89, 0xf8,             // mov rax,rdi
	0x48, 0x85, 0xff,             // test rdi,rdi
	0x7e, 0x0f,                   // jle 1f
	0x48, 0xff, 0xcf,             // dec rdi
	0x48, 0x89, 0xf1,             // mov rcx,rsi
	0x48, 0x8d, 0x35, 0xeb, 0xff, 0xff, 0xff, // lea rsi,[rip-21]
	0xff, 0xe1,                   // jmp rcx
	0xc3,                         // 1: ret
};

static void put(unsigned char *p)
{
	memcpy(p, calls, sizeof calls);
	memcpy(p + 256, jumps, sizeof jumps);
}

static unsigned char *map(unsigned long at, unsigned long size)
{
	unsigned char *p = mmap((void *)at, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (unsigned char *)at) {
		puts("taken");
		exit(1);
	}
	put(p);
	return p;
}

static void use(const char *what, unsigned char *a, unsigned char *b)
{
	long sum = 0;
	for (int i = 0; i < 200; i++) {
		sum += ((function *)a)(20, b) + ((function *)b)(11, a);
		sum += ((function *)(a + 256))(20, b + 256) + ((function *)(b + 256))(7, a + 256);
	}
	printf("%s: %ld\n", what, sum);
}

int main(void)
{
	const unsigned long first = 0x60000000000;
	unsigned char *p[4];
	p[0] = map(first, 4096);
	use("one", p[0], p[0]);
	for (int i = 1; i < 4; i++) { // 2 comes last: both of its places are those of others
		p[i] = map(first + (i == 1 ? 1ul : 5ul - i) * GIB, 4096);
		for (int j = 0; j <= i; j++)
			for (int k = 0; k <= i; k++)
				use("some", p[j], p[k]);
	}
	fflush(stdout);
	int status;
	if (fork() == 0) {
		unsigned char *q = map(first + 6ul * GIB, 4096);
		use("child", p[1], q);
		use("child", p[1], p[0]);
		fflush(stdout);
		_exit(3);
	}
	wait(&status);
	print_status("child", status);
	use("parent", p[0], p[2]);

	unsigned char *large = map(first + 16ul * GIB, 3ul * GIB);
	put(large + GIB);
	put(large + 2ul * GIB);
	use("large", large, large + GIB);
	use("large", large + 2ul * GIB, large + GIB);
	use("large", large, p[3]);
	munmap(p[1], 4096);
	use("rest", p[0], p[2]);
	DONE();
}
