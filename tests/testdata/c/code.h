// What guests with generated code share: calls of it that may fault, and memory for it.
#ifndef CODE_H
#define CODE_H

#include "guest.h"
#include <setjmp.h>

typedef long (*fn)(long);

static __thread sigjmp_buf env;
static __thread siginfo_t seen;

// on is the handler of signals that call expects.
static inline void on(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	seen = *si;
	siglongjmp(env, 1);
}

// call calls p, and returns -code of the signal that came instead.
static inline long call(void *p, long arg)
{
	if (sigsetjmp(env, 1) == 0)
		return ((fn)p)(arg);
	CHECK(seen.si_signo == SIGSEGV && seen.si_addr == p);
	return -seen.si_code;
}

static inline unsigned char *map(size_t n, int prot)
{
	unsigned char *p = mmap(NULL, n, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

#endif
