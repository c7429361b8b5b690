// Takes all memory below 2 GiB, as emulators of other systems do: in two pieces that replace what is there, and uses it.
#include "guest.h"
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>

static const struct { uintptr_t lo, hi; } taken[] = {{0x110000, 0x68000000}, {0x68000000, 0x7fff0000}};

static void *worker(void *arg)
{
	uint64_t state = (uintptr_t)arg, sum = 0;
	for (int i = 0; i < 300000; i++)
		sum += mix(&state) >> 3;
	return (void *)sum;
}

static void use(void)
{
	for (int i = 0; i < 2; i++) {
		uint32_t *first = (uint32_t *)taken[i].lo, *last = (uint32_t *)taken[i].hi - 1;
		CHECK(mprotect(first, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
		CHECK(mprotect((void *)((uintptr_t)last & -4096ul), 4096, PROT_READ | PROT_WRITE) == 0);
		memcpy(first, "\x8d\x47\x05\xc3", 4); // lea 5(%rdi),%eax ; ret
		CHECK(((int (*)(int))first)(i) == i + 5);
		*last = 7;
		CHECK(mprotect(first, 4096, PROT_NONE) == 0);
	}
}

int main(void)
{
	pthread_t t[4];
	for (long i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], 0, worker, (void *)i) == 0);
	for (int i = 0; i < 2; i++) {
		void *p = (void *)taken[i].lo;
		CHECK(mmap(p, taken[i].hi - taken[i].lo, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == p);
	}
	use();
	struct timespec ts;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &ts) == 0);
	for (long i = 0; i < 4; i++) {
		void *sum;
		CHECK(pthread_join(t[i], &sum) == 0 && sum == worker((void *)i));
	}
	void *m = dlopen("libm.so.6", RTLD_NOW);
	CHECK(m != 0);
	double (*volatile cosine)(double) = (double (*)(double))dlsym(m, "cos");
	CHECK(cosine != 0 && cosine(0) == 1);
	pid_t pid = fork();
	if (pid == 0) {
		use();
		_exit(failures ? 1 : 3);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("child", status);
	DONE();
}
