// Threads: mutex, condition variable, barrier, thread-local storage, many at once.
#include "guest.h"
#include <pthread.h>

enum { N = 50, ROUNDS = 200 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static long counter, atomic_counter;
static int turn;
static __thread int mine = 17;
static __thread char block[3000];

static void *worker(void *arg)
{
	int id = (int)(intptr_t)arg;

	CHECK(mine == 17 && block[2999] == 0);
	mine = id;
	memset(block, id, sizeof block);
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&lock);
		counter += id;
		pthread_mutex_unlock(&lock);
		__atomic_fetch_add(&atomic_counter, 1, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_lock(&lock);
	while (turn != id)
		pthread_cond_wait(&turn_changed, &lock);
	turn++;
	pthread_cond_broadcast(&turn_changed);
	pthread_mutex_unlock(&lock);
	CHECK(mine == id && block[1234] == (char)id);
	return (void *)(intptr_t)(id * id);
}

int main(void)
{
	pthread_t t[N];
	void *ret;

	for (int i = 0; i < N; i++)
		CHECK(pthread_create(&t[i], NULL, worker, (void *)(intptr_t)i) == 0);
	for (int i = 0; i < N; i++) {
		CHECK(pthread_join(t[i], &ret) == 0);
		CHECK((intptr_t)ret == i * i);
	}
	printf("counter %ld atomic %ld turn %d\n", counter, atomic_counter, turn);
	CHECK(mine == 17);
	// One after the other, so that stacks and contexts are used again.
	for (int i = 0; i < 300; i++) {
		turn = i % 50;
		CHECK(pthread_create(&t[0], NULL, worker, (void *)(intptr_t)(i % 50)) == 0);
		CHECK(pthread_join(t[0], &ret) == 0);
	}
	printf("counter %ld\n", counter);
	DONE();
}
