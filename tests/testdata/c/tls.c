// Thread-local storage in all models: local-exec and initial-exec here, global-dynamic, local-dynamic and initial-exec in
// a library that this is linked with, and the same, with and without TLS descriptors, in libraries that are loaded and
// unloaded while threads run. The arguments are the libraries to load.
#include "guest.h"
#include <dlfcn.h>
#include <pthread.h>

enum { THREADS = 6, STEPS = 2000 };

#define MODEL(m) __attribute__((tls_model(m)))

static __thread long le1 MODEL("local-exec") = 7;
static __thread long le2 MODEL("local-exec") __attribute__((aligned(128)));
extern __thread long lib_ie MODEL("initial-exec");
extern __thread long lib_gd;
int lib_first(void);
long lib_step(long);
long *lib_address(int);

struct library {
	void *handle;
	int (*first)(void);
	long (*step)(long);
	long *(*address)(int);
};

static pthread_barrier_t meet;
static struct library loaded[4];
static int libraries;
static long *seen[THREADS][6];

// load opens a library, and forgets it again by unload.
static void load(struct library *l, const char *path)
{
	l->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!l->handle) {
		printf("%s\n", dlerror());
		exit(1);
	}
	l->first = (int (*)(void))dlsym(l->handle, "lib_first");
	l->step = (long (*)(long))dlsym(l->handle, "lib_step");
	l->address = (long *(*)(int))dlsym(l->handle, "lib_address");
}

static long work(long seed)
{
	uint64_t state = seed;
	long sum = 0;
	for (int i = 0; i < STEPS; i++) {
		long v = mix(&state) >> 40;
		le1 += v;
		le2 ^= le1;
		lib_ie ^= le2;
		lib_gd += v;
		sum += lib_step(v) + lib_ie;
		for (int l = 0; l < libraries; l++)
			sum = sum * 31 + loaded[l].step(v);
		if (i % 500 == 0)
			sched_yield();
	}
	return sum;
}

// run is a thread that exists before the libraries are loaded.
static void *run(void *arg)
{
	int self = (int)(intptr_t)arg;
	CHECK(le1 == 7 && le2 == 0 && (uintptr_t)&le2 % 128 == 0 && lib_ie == 1004 && lib_gd == 1001 && lib_first() == 0);
	pthread_barrier_wait(&meet); // loaded
	pthread_barrier_wait(&meet);
	for (int l = 0; l < libraries; l++)
		CHECK(loaded[l].first() == 0);
	CHECK(&lib_ie == lib_address(1) && &lib_gd == lib_address(0));
	seen[self][0] = &le1;
	seen[self][1] = &lib_ie;
	for (int l = 0; l < libraries; l++)
		for (int which = 0; which < 2; which++)
			seen[self][2 + 2 * l + which] = loaded[l].address(which);
	return (void *)work(42);
}

// again is a thread that uses a library that is loaded anew for each round.
static void *again(void *arg)
{
	struct library *l = arg;
	CHECK(l->first() == 0);
	l->step(3);
	CHECK(l->first() != 0);
	return (void *)l->step(4);
}

int main(int argc, char **argv)
{
	pthread_t t[THREADS];
	void *sum[THREADS], *same;

	CHECK(pthread_barrier_init(&meet, NULL, THREADS + 1) == 0);
	for (intptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t[i], NULL, run, (void *)i) == 0);
	pthread_barrier_wait(&meet);
	for (int i = 1; i < argc; i++)
		load(&loaded[libraries++], argv[i]);
	pthread_barrier_wait(&meet);
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(t[i], &sum[i]) == 0 && sum[i] == sum[0]);
	for (int i = 0; i < THREADS; i++)
		for (int j = 0; j < i; j++)
			for (int k = 0; k < 2 + 2 * libraries; k++)
				CHECK(seen[i][k] != seen[j][k]);
	printf("%d libraries, sum %lx\n", libraries, (long)sum[0]);
	for (int i = 0; i < libraries; i++)
		CHECK(dlclose(loaded[i].handle) == 0);

	// Libraries come and go; each time all variables are new.
	long last = 0;
	for (int round = 0; round < 40; round++) {
		struct library l;
		load(&l, argv[1 + round % libraries]);
		CHECK(l.first() == 0);
		CHECK(pthread_create(&t[0], NULL, again, &l) == 0);
		CHECK(pthread_create(&t[1], NULL, again, &l) == 0);
		CHECK(pthread_join(t[0], &sum[0]) == 0 && pthread_join(t[1], &same) == 0 && same == sum[0]);
		CHECK(l.first() == 0);
		CHECK(round == 0 || last == (long)sum[0]);
		last = (long)sum[0];
		CHECK(dlclose(l.handle) == 0);
	}
	printf("last %lx\n", last);
	DONE();
}
