// Reservations at addresses that the program asks for without insisting: it gets them if they are free.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(void)
{
	static const unsigned long hints[] = {1ul << 42, (5ul << 40) + (1ul << 30), 7ul << 40, 1ul << 43, 1ul << 44, 3ul << 44};
	const size_t size = 64 << 20;
	for (unsigned i = 0; i < sizeof hints / sizeof *hints; i++) {
		char *p = mmap((void *)hints[i], size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		printf("%#lx: %d\n", hints[i], p == (char *)hints[i]);
		if (p == MAP_FAILED)
			return 1;
		// A second one cannot have the same place.
		char *q = mmap((void *)hints[i], size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		printf("again: %d\n", q != MAP_FAILED && (q + size <= p || q >= p + size));
		// What is reserved becomes code.
		mprotect(p, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
		memcpy(p, "\xb8\x2a\x00\x00\x00\xc3", 6); // mov eax,42 ; ret
		printf("code: %d\n", ((int (*)(void))p)());
	}
	return 0;
}
