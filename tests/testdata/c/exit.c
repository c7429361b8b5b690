// Ends as its argument says.
#include "guest.h"

static void bye(void) { printf("atexit\n"); }

static int deep(int n) { return n == 0 ? (raise(SIGSEGV), 0) : deep(n - 1) + 1; }

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "return";
	volatile int zero = 0;

	atexit(bye);
	printf("how: %s\n", how);
	fflush(stdout);
	if (!strcmp(how, "exit"))
		exit(atoi(argv[2]));
	if (!strcmp(how, "_exit"))
		_exit(atoi(argv[2]));
	if (!strcmp(how, "group"))
		syscall(SYS_exit_group, atoi(argv[2]));
	if (!strcmp(how, "thread"))
		syscall(SYS_exit, atoi(argv[2]));
	if (!strcmp(how, "raise"))
		raise(atoi(argv[2]));
	if (!strcmp(how, "kill"))
		kill(getpid(), atoi(argv[2]));
	if (!strcmp(how, "abort"))
		abort();
	if (!strcmp(how, "segv"))
		*(volatile int *)8 = 1;
	if (!strcmp(how, "jump0"))
		((void (*)(void))(uintptr_t)zero)();
	if (!strcmp(how, "jumpdata")) {
		static char data[4096];
		((void (*)(void))data)();
	}
	if (!strcmp(how, "noncanonical"))
		((void (*)(void))0x8000000000000000)();
	if (!strcmp(how, "div"))
		__asm__ volatile("xor %%edx, %%edx; mov $1, %%eax; idivl %0" : : "m"(zero) : "eax", "edx");
	if (!strcmp(how, "ill"))
		__asm__ volatile("ud2");
	if (!strcmp(how, "trap"))
		__asm__ volatile("int3");
	if (!strcmp(how, "hlt"))
		__asm__ volatile("hlt");
	if (!strcmp(how, "overflow")) {
		volatile char big[100000];
		big[0] = 1;
		return main(argc, argv) + big[0];
	}
	if (!strcmp(how, "deep"))
		return deep(1000);
	return argc > 2 ? atoi(argv[2]) : 0;
}
