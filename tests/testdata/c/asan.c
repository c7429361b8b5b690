// A program that is built with AddressSanitizer, whose shadow takes memory at fixed addresses; also in a forked child, and when code is
// loaded and generated after that. With an argument it reads behind a block, which must be found.
#include "guest.h"
#include <dlfcn.h>
#include <pthread.h>

static void *work(void *arg)
{
	char *p = malloc(1000);
	for (int i = 0; i < 1000; i++)
		p[i] = i;
	long sum = 0;
	for (int i = 0; i < 1000; i++)
		sum += p[i];
	free(p);
	return (void *)(sum + (long)arg);
}

int main(int argc, char **argv)
{
	pthread_t t;
	void *r;
	CHECK(pthread_create(&t, NULL, work, (void *)1) == 0 && pthread_join(t, &r) == 0);
	printf("%ld\n", (long)r);
	void *lib = dlopen("libm.so.6", RTLD_NOW);
	double (*cosine)(double) = (double (*)(double))dlsym(lib, "cos");
	printf("%.3f\n", cosine(0.5));
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(code != MAP_FAILED);
	memcpy(code, "\xb8\x07\x00\x00\x00\xc3", 6); // mov eax,7 ; ret
	printf("%d\n", ((int (*)(void))code)());
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		memcpy(code, "\xb8\x08\x00\x00\x00\xc3", 6);
		_exit(((int (*)(void))code)() + (work(NULL) == r));
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("child", status);
	fflush(stdout);
	if (argc > 1) {
		volatile char *p = malloc(10);
		return p[atoi(argv[1])];
	}
	DONE();
}
