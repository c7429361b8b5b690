// Memory of System V with code: executable, written at another address, by another process, over a mapping, and gone.
#include "guest.h"
#include <setjmp.h>
#include <sys/ipc.h>
#include <sys/shm.h>

typedef int (*fn)(int);

static sigjmp_buf env;

static void on(int sig)
{
	(void)sig;
	siglongjmp(env, 1);
}

// call calls p; -1: it can't be executed.
static int call(void *p)
{
	return sigsetjmp(env, 1) ? -1 : ((fn)p)(0);
}

static void set(unsigned char *p, int v)
{
	p[0] = 0xb8; // mov eax,v
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

static long hot(void *p)
{
	long sum = 0;
	for (int i = 0; i < 200000; i++)
		sum += ((fn)p)(0);
	return sum / 200000;
}

int main(void)
{
	int id = shmget(IPC_PRIVATE, 12288, IPC_CREAT | 0700);
	CHECK(id >= 0);
	signal(SIGSEGV, on);
	unsigned char *w = shmat(id, NULL, 0), *x = shmat(id, NULL, SHM_EXEC | SHM_RDONLY), *rwx = shmat(id, NULL, SHM_EXEC);
	CHECK(w != (void *)-1 && x != (void *)-1 && rwx != (void *)-1);
	shmctl(id, IPC_RMID, NULL);
	long sum = 0;
	for (int i = 0; i < 8; i++) {
		set(w + 4096, i);
		sum = sum * 3 + call(x + 4096) + call(rwx + 4096);
		set(rwx + 4096, i + 5);
		sum = sum * 3 + call(x + 4096) + hot(rwx + 4096);
		if (i % 2)
			sum += hot(x + 4096);
	}
	printf("%ld, data %d\n", sum, call(w + 4096));
	if (fork() == 0) {
		set(w + 4096, 99);
		_exit(0);
	}
	wait(NULL);
	printf("another process %d\n", call(x + 4096));
	// Over code.
	unsigned char *p = mmap(NULL, 12288, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	set(p + 4096, 55);
	printf("before %d", call(p + 4096));
	CHECK(shmat(id, p, SHM_EXEC | SHM_REMAP) == p);
	printf(", after %d", call(p + 4096));
	CHECK(shmat(id, p, SHM_REMAP) == p);
	printf(", as data %d\n", call(p + 4096));
	CHECK(shmat(id, p, SHM_EXEC) == (void *)-1 && errno == EINVAL);
	CHECK(shmdt(x + 4096) == -1 && errno == EINVAL);
	printf("attached %d\n", call(x + 4096));
	CHECK(shmdt(x) == 0);
	printf("detached %d, the other %d\n", call(x + 4096), call(rwx + 4096));
	CHECK(mprotect(rwx, 4096, PROT_NONE) == 0 && shmdt(rwx) == 0);
	printf("detached %d %d\n", call(rwx + 4096), call(rwx + 8192));
	DONE();
}
