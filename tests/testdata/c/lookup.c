// Code whose lookup would read the program's memory: that is an error, and no wrong branch.
#include "guest.h"

static void *map(unsigned long at, int prot)
{
	void *p = mmap((void *)at, 4096, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (void *)at) {
		puts("taken");
		exit(1);
	}
	return p;
}

int main(void)
{
	const unsigned long code = 0x60040000000, table = 0x7ffc0000;
	map(table + 8 * code, PROT_READ | PROT_WRITE);
	unsigned char *p = map(code, PROT_READ | PROT_WRITE | PROT_EXEC);
	memcpy(p, "\x48\x8d\x47\x01\xc3", 5); // lea rax,[rdi+1]; ret
	printf("%d\n", ((int (*)(int))p)(1));
	return 0;
}
