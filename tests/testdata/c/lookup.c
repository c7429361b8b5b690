// Code whose lookup reads memory that is something else: that is an error, and no wrong branch. With "table" it is the lookup
// table of other code, 1 GiB below; with "data" the program's memory.
#include "guest.h"

static unsigned char *map(unsigned long at)
{
	unsigned char *p = mmap((void *)at, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (unsigned char *)at) {
		puts("taken");
		exit(1);
	}
	memcpy(p, "\x48\x8d\x47\x01\xc3", 5); // lea rax,[rdi+1]; ret
	return p;
}

int main(int argc, char **argv)
{
	const unsigned long code = 0x60000000000, table = 0x7ffc0000;
	if (argc > 1 && argv[1][0] == 't')
		map(code);
	else
		mmap((void *)(table + 8 * (code + (1ul << 30))), 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	printf("%d\n", ((int (*)(int))map(code + (1ul << 30)))(1));
	return 0;
}
