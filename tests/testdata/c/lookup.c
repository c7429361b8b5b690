// Code whose lookup would read the program's memory. With an argument it is the child of a vfork that has it, as part of which xv can't be changed.
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

int main(int argc, char **argv)
{
	if (argc > 1) {
		pid_t child = vfork();
		if (child)
			return child < 0 || waitpid(child, 0, 0) != child;
	}
	const unsigned long code = 0x60040000000, table = 0x7ffc0000;
	map(table + 8 * code, PROT_READ | PROT_WRITE);
	unsigned char *p = map(code, PROT_READ | PROT_WRITE | PROT_EXEC);
	memcpy(p, "\x48\x8d\x47\x01\xc3", 5); // lea rax,[rdi+1]; ret
	printf("%d\n", ((int (*)(int))p)(1));
	return 0;
}
