// Generated code next to data that other threads write, while further threads change the memory map: as in a Java
// virtual machine, whose code cache also holds counters and links.
#include "guest.h"
#include <pthread.h>

enum { page = 4096, pages = 16, slot = 64, functions = 1000, writers = 2 };

static unsigned char *code;
static volatile int stop;
static unsigned long counted[writers];

// Each page begins with a counter for each writer.
static void *writer(void *arg)
{
	int me = (int)(intptr_t)arg;
	while (!stop)
		for (int i = 0; i < pages; i++) {
			__atomic_fetch_add((unsigned long *)(code + i * page) + me, 1, __ATOMIC_RELAXED);
			counted[me]++;
		}
	return NULL;
}

// Neighbouring mappings of the same kind become one.
static void *mapper(void *arg)
{
	(void)arg;
	enum { parts = 64 };
	char *area = mmap(NULL, parts * 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(area != MAP_FAILED);
	while (!stop) {
		for (int i = 0; i < parts; i++)
			CHECK(mmap(area + i * 2 * page, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
		CHECK(mmap(area, parts * 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == area);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[writers + 1];

	int fd = memfd_create("shared", 0);
	CHECK(fd >= 0 && ftruncate(fd, page) == 0);
	CHECK(mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
	code = mmap(NULL, pages * page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(code != MAP_FAILED);
	for (int i = 0; i < writers; i++)
		CHECK(pthread_create(&threads[i], NULL, writer, (void *)(intptr_t)i) == 0);
	CHECK(pthread_create(&threads[writers], NULL, mapper, NULL) == 0);

	for (unsigned i = 0; i < functions; i++) {
		unsigned char *f = code + i % pages * page + (1 + i / pages % (page / slot - 1)) * slot;
		f[0] = 0xb8; // mov eax, i
		memcpy(f + 1, &i, sizeof i);
		f[5] = 0xc3; // ret
		CHECK(((unsigned (*)(void))f)() == i);
	}
	stop = 1;
	for (int i = 0; i <= writers; i++)
		pthread_join(threads[i], NULL);
	for (int w = 0; w < writers; w++) {
		unsigned long sum = 0;
		for (int i = 0; i < pages; i++)
			sum += ((unsigned long *)(code + i * page))[w];
		CHECK(sum == counted[w]);
	}
	DONE();
}
