// A program that stays until it is ended, in the way that its argument says.
#include "guest.h"
#include <pthread.h>

static void *spin(void *arg)
{
	for (;;)
		if (arg)
			pause();
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "sleep";

	printf("ready\n");
	fflush(stdout);
	if (!strcmp(how, "count")) {
		for (int i = 0; i < 100; i++) {
			printf("%d\n", i);
			fflush(stdout);
			usleep(5000);
		}
		return 0;
	}
	if (!strcmp(how, "threads")) {
		pthread_t t;
		for (intptr_t i = 0; i < 30; i++)
			CHECK(pthread_create(&t, NULL, spin, (void *)(i % 10)) == 0);
	}
	for (;;)
		pause();
}
