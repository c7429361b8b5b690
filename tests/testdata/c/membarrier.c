// There is no rseq (glibc and others go on without), so membarrier(2) must not offer what needs it.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_rseq
#define SYS_rseq 334
#endif

int main(void)
{
	long all = syscall(SYS_membarrier, 0, 0, 0);
	printf("query %d\n", all > 0);
	printf("global %ld\n", syscall(SYS_membarrier, 1, 0, 0));
	printf("unregistered %ld\n", syscall(SYS_membarrier, 8, 0, 0));
	printf("register %ld\n", syscall(SYS_membarrier, 16, 0, 0));
	printf("expedited %ld\n", syscall(SYS_membarrier, 8, 0, 0));
	printf("unknown %ld %d\n", syscall(SYS_membarrier, 1 << 20, 0, 0), errno);
	char area[64] __attribute__((aligned(32))) = {0};
	int rseq = syscall(SYS_rseq, area, 1, 0, 0) < 0 && errno == ENOSYS ? 0 : 1;
	int offered = (all & 128) != 0 && syscall(SYS_membarrier, 256, 0, 0) == 0;
	printf("consistent %d\n", rseq == offered);
	return 0;
}
