// Makes and ends threads, processes and programs in rounds. Round n begins when there is a file go.n; it ends when there is
// one called end. Without arguments it does nothing.
#include "guest.h"
#include <pthread.h>
#include <sys/stat.h>

static void *thread(void *arg) { return arg; }

static int next_round(int round)
{
	char name[16];
	struct stat st;
	snprintf(name, sizeof name, "go.%d", round);
	for (; stat("end", &st) != 0; usleep(2000))
		if (stat(name, &st) == 0)
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t t[20];
	int status;

	if (argc < 2)
		return 0;
	for (int round = 0; next_round(round); round++) {
		for (int i = 0; i < 5; i++) {
			for (int n = 0; n < 20; n++)
				CHECK(pthread_create(&t[n], NULL, thread, NULL) == 0);
			for (int n = 0; n < 20; n++)
				CHECK(pthread_join(t[n], NULL) == 0);
		}
		for (int i = 0; i < 30; i++) {
			pid_t pid = i % 3 == 2 ? vfork() : fork();
			if (pid == 0) {
				if (i % 3 == 0) { // code of its own, so that it gets a cache of its own
					char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
					memcpy(p, "\xb8\x07\0\0\0\xc3", 6); // mov $7, %eax; ret
					_exit(((int (*)(void))p)() - 7);
				}
				if (i % 3 == 2)
					execl("/proc/self/exe", "churn", NULL);
				if (i % 2)
					raise(SIGKILL);
				_exit(0);
			}
			CHECK(waitpid(pid, &status, 0) == pid);
		}
		printf("round %d\n", round);
		fflush(stdout);
	}
	DONE();
}
