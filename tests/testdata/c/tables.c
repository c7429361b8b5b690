// Memory where xv has its lookup tables, by all ways to map it, while other threads are in system calls and in code.
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

static int pipes[2];
static volatile int stop, hits;

static void *sleeps(void *arg) {
	char c = 0;
	while (read(pipes[0], &c, 1) == 1 && c != 'e')
		;
	return (void *)(long)c;
}

static int add(int a) { return a + 1; }
static int sub(int a) { return a - 1; }
static int (*volatile ways[])(int) = {add, sub, add, add};

static void *runs(void *arg) {
	long n = 0;
	int v = 0;
	for (; !stop; n++)
		v = ways[n % 4](v);
	return (void *)(long)(v == 2 * (n / 4) + (int[]){0, 1, 0, 1}[n % 4]);
}

static void hit(int sig) { hits++; }

static void fill(char *p, size_t size, int v) {
	for (size_t i = 0; i < size; i += 1 << 20)
		p[i] = v;
}

static int filled(char *p, size_t size, int v) {
	for (size_t i = 0; i < size; i += 1 << 20)
		if (p[i] != v)
			return 0;
	return 1;
}

static void *map(unsigned long at, size_t size) {
	void *p = mmap((void *)at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	if (p != (void *)at) {
		perror("mmap");
		exit(1);
	}
	return p;
}

int main(int argc, char **argv) {
	const char *how = argv[1];
	const unsigned long low = 0x80000000, size = 0x80000000; // 2 to 4 GiB
	pthread_t t[3];
	pipe(pipes);
	signal(SIGUSR1, hit);
	pthread_create(&t[0], 0, sleeps, 0);
	pthread_create(&t[1], 0, runs, 0);
	pthread_create(&t[2], 0, runs, 0);
	usleep(20000);

	char *p = MAP_FAILED;
	size_t n = size;
	if (!strcmp(how, "mmap")) {
		p = map(low, n);
	} else if (!strcmp(how, "calls")) { // where the targets of calls are looked up
		p = map(0x280000000, n);
	} else if (!strcmp(how, "reserve")) {
		p = mmap((void *)low, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
		for (size_t i = 0; i < n; i += n / 8)
			map(low + i, n / 8);
	} else if (!strcmp(how, "mremap")) {
		n = 256 << 20;
		char *from = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		p = mremap(from, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0xc0000000);
	} else if (!strcmp(how, "shmat")) {
		n = 256 << 20;
		int id = shmget(IPC_PRIVATE, n, IPC_CREAT | SHM_NORESERVE | 0600);
		p = shmat(id, (void *)0xc0000000, SHM_REMAP);
		shmctl(id, IPC_RMID, 0);
	} else if (!strcmp(how, "code")) { // that would be looked up in memory of the program
		map(0x7ffc0000 + 8 * 0x300000000, 1 << 24);
		fill((char *)0x7ffc0000 + 8 * 0x300000000, 1 << 24, 0xcc);
		n = 1 << 20;
		p = mmap((void *)0x300000000, n, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		memcpy(p + 16, "\x8d\x47\x02\xc3", 4); // lea eax,[rdi+2] ; ret
		int (*volatile made)(int) = (int (*)(int))(p + 16);
		if (made(40) != 42)
			return 1;
	}
	if (p == MAP_FAILED) {
		perror(how);
		return 1;
	}
	printf("%s: at %p\n", how, p);
	fill(p, n, 'x');
	for (int i = 0; i < 20; i++) {
		raise(SIGUSR1);
		pthread_kill(t[i % 3], SIGUSR1);
		write(pipes[1], "a", 1);
		printf("%.6f ", sin(i + argc));
	}
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		fill(p, n, 'y');
		execl("/proc/self/exe", argv[0], "again", (char *)0);
		_exit(1);
	}
	int status;
	waitpid(child, &status, 0);
	stop = 1;
	write(pipes[1], "e", 1);
	long results[3];
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], (void **)&results[i]);
	printf("\nchild %d, threads %ld %ld %ld, memory %d, hits %d\n", status, results[0], results[1], results[2], filled(p, n, 'x'), hits > 20);
	return 0;
}
