// Takes memory that xv can't leave because the parent is in vfork ("vfork"), or where it has placed images ("images").
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void take(unsigned long lo, unsigned long hi)
{
	mmap((void *)lo, hi - lo, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "vfork") == 0 && vfork() > 0)
		return 0;
	if (argc > 1 && strcmp(argv[1], "vfork") == 0)
		take(0x40000000, 0x50000000);
	else
		take(0x1000000, 0x10000000);
	write(1, "taken\n", 6);
	_exit(0);
}
