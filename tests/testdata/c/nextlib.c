// A library that has a function of libc too, and calls that by the address that dlsym(3) finds behind its own.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <unistd.h>

static int calls;

int next_calls(void) { return calls; }

pid_t getppid(void)
{
	static pid_t (*volatile next)(void);
	calls++;
	next = (pid_t (*)(void))dlsym(RTLD_NEXT, "getppid");
	return next == NULL ? -1 : next == getppid ? -2 : next();
}

// next_default finds what any library has.
void *next_default(void) { return dlsym(RTLD_DEFAULT, "next_calls"); }
