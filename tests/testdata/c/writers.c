// Threads write to a page of code at the same time, while it is executed: each write may fault in several threads at once,
// and all of them must find it done.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { threads = 4, rounds = 400 };

static unsigned char *page;
static pthread_barrier_t barrier;

static void *work(void *arg)
{
	volatile uint32_t *mine = (volatile uint32_t *)(page + 1024 + 64 * (intptr_t)arg);
	for (int i = 0; i < rounds; i++) {
		pthread_barrier_wait(&barrier);
		*mine = *mine + 1; // at the same time as the others
		pthread_barrier_wait(&barrier);
		if (((int (*)(void))page)() != 42)
			puts("wrong code");
	}
	return NULL;
}

int main(void)
{
	static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; // mov eax,42 ; ret
	pthread_t t[threads];
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, code, sizeof code);
	pthread_barrier_init(&barrier, NULL, threads);
	for (intptr_t i = 0; i < threads; i++)
		pthread_create(&t[i], NULL, work, (void *)i);
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < threads; i++)
		printf("%u\n", *(uint32_t *)(page + 1024 + 64 * i));
	return 0;
}
