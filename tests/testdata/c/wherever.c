// Memory at addresses below 2 GiB that the program chooses itself, all of them free natively: mapped in pieces and in several orders, by every
// call that can, while other threads run; and calls about ranges in which there is nothing.
#include "guest.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ipc.h>
#include <sys/shm.h>

enum { PIECE = 64 << 20, PIECES = 27, AT_ONCE = 12 }; // from 256 MiB on
static const uintptr_t first = 0x10000000;
static uintptr_t place(int i) { return first + (uintptr_t)i * PIECE; }

static int (*volatile pass[4])(int);
static int add(int n) { return n + 1; }
static int sub(int n) { return n - 1; }
static int mul(int n) { return n * 3; }
static int neg(int n) { return -n; }

static atomic_int stop;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long shared_sum;

// compute returns the same for the same seed, and does system calls on the way.
static uint64_t compute(uint64_t seed)
{
	uint64_t state = seed, sum = 0;
	int n = 1;
	for (int i = 0; i < 20000; i++) {
		sum += mix(&state) >> 7;
		n = pass[(state >> 11) & 3](n);
		if (i % 1000 == 0) {
			pthread_mutex_lock(&mutex);
			shared_sum++;
			pthread_mutex_unlock(&mutex);
			syscall(SYS_getppid);
		}
		if (i % 10000 == 0)
			nanosleep(&(struct timespec){0, 1000}, 0);
	}
	return sum ^ (uint64_t)n;
}

static void *worker(void *arg)
{
	uint64_t want = compute((uintptr_t)arg);
	long rounds = 0;
	do {
		if (compute((uintptr_t)arg) != want)
			return (void *)-1;
		rounds++;
	} while (!stop);
	return (void *)rounds;
}

// mark writes to both ends of a piece, check reads that.
static void mark(int i)
{
	volatile uint64_t *p = (void *)place(i);
	p[0] = place(i), p[PIECE / 8 - 1] = ~place(i);
}
static int marked(int i)
{
	volatile uint64_t *p = (void *)place(i);
	return p[0] == place(i) && p[PIECE / 8 - 1] == ~place(i);
}

// put maps piece i by one of the ways to do it.
static void put(int i, int how)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *at = (void *)place(i), *got = 0;
	switch (how % 5) {
	case 0:
		got = mmap(at, PIECE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0);
		break;
	case 1:
		got = mmap(at, PIECE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
		break;
	case 2:
		got = mmap(at, PIECE, PROT_READ | PROT_WRITE, flags, -1, 0);
		break;
	case 3: {
		void *from = mmap(0, PIECE, PROT_READ | PROT_WRITE, flags, -1, 0);
		got = mremap(from, PIECE, PIECE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
		break;
	}
	case 4: {
		int id = shmget(IPC_PRIVATE, PIECE, IPC_CREAT | 0600 | SHM_NORESERVE);
		CHECK(id >= 0);
		got = shmat(id, at, i % 2 ? SHM_REMAP : 0);
		CHECK(shmctl(id, IPC_RMID, 0) == 0);
		break;
	}
	}
	CHECK(got == at);
	if (got == at)
		mark(i);
}

static int executed(uintptr_t at)
{
	return ((int (*)(void))at)();
}

// nth is the number of the piece that comes as number k: in ascending or descending order, or from the middle.
static int nth(int order, int k)
{
	switch (order) {
	case 0:
		return k;
	case 1:
		return PIECES - 1 - k;
	}
	return PIECES / 2 + (k % 2 ? k + 1 : -k) / 2;
}

// some maps so many pieces, but not more than at_once at a time, and then unmaps all.
static void some(int order, int pieces, int at_once)
{
	for (int k = 0; k < pieces; k++) {
		if (k >= at_once) {
			int last = nth(order, k - at_once);
			CHECK(marked(last));
			CHECK(munmap((void *)place(last), PIECE) == 0);
		}
		put(nth(order, k), k + order);
	}
	// Code at such an address.
	uintptr_t code = place(nth(order, pieces - 2)) + 0x123456;
	memcpy((void *)code, "\xb8\x2a\x00\x00\x00\xc3", 6); // mov eax,42 ; ret
	CHECK(mprotect((void *)(code & -4096ul), 4096, PROT_READ | PROT_EXEC) == 0);
	CHECK(executed(code) == 42);
	for (int k = pieces - at_once; k < pieces; k++)
		CHECK(marked(nth(order, k)));
	CHECK(munmap((void *)first, (size_t)PIECE * PIECES) == 0);
}

static void pieces(int order) { some(order, PIECES, AT_ONCE); }

// nothing makes calls about ranges with little memory in them.
static void nothing(void)
{
	const size_t all = (size_t)PIECE * PIECES;
	char *lowest = (char *)place(0), *highest = (char *)place(PIECES - 1);
	put(0, 0);
	put(PIECES - 1, 0);
	CHECK(mprotect(lowest, all, PROT_READ) == -1 && errno == ENOMEM);
	FILE *f = fopen("/proc/self/maps", "r");
	char line[300];
	int seen = 0;
	while (fgets(line, sizeof line, f)) {
		unsigned long lo, hi;
		char perm[5];
		if (sscanf(line, "%lx-%lx %4s", &lo, &hi, perm) == 3 && hi > place(0) && lo < place(PIECES))
			printf("%lx-%lx %s\n", lo, hi, perm), seen++;
	}
	fclose(f);
	CHECK(seen == 2);
	CHECK(mprotect(lowest, PIECE, PROT_READ | PROT_WRITE) == 0);
	CHECK(madvise(lowest, all, MADV_DONTNEED) == -1 && errno == ENOMEM);
	CHECK(lowest[0] == 0 && highest[PIECE - 1] == 0);
	CHECK(mremap(lowest + PIECE, PIECE, PIECE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
	for (int i = 1; i < PIECES - 1; i++) {
		CHECK(mprotect((void *)place(i), PIECE, PROT_READ) == -1 && errno == ENOMEM);
		CHECK(munmap((void *)place(i), PIECE) == 0);
		CHECK(madvise((void *)place(i), PIECE, MADV_REMOVE) == -1 && errno == ENOMEM);
		CHECK(madvise((void *)place(i), PIECE, MADV_DONTFORK) == -1 && errno == ENOMEM);
	}
	mark(0);
	// It grows where it is, as far as there is room.
	const size_t most = all - 6 * PIECE;
	CHECK(munmap(highest, PIECE) == 0);
	CHECK(mremap(lowest, PIECE, most, 0) == lowest);
	CHECK(marked(0) && lowest[most - 1] == 0);
	CHECK(munmap(lowest, all) == 0);
	CHECK(munmap(lowest, all) == 0);
}

static void on_signal(int sig)
{
	(void)sig;
	pieces(2);
}

static void all(void)
{
	for (int order = 0; order < 3; order++)
		pieces(order);
	some(0, 23, 23); // nearly all that there is
	some(1, 22, 22);
	nothing();
	CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
	put(5, 0);
	CHECK(munmap((void *)place(5), PIECE) == 0);
	raise(SIGUSR1);
	for (int i = 0; i < 10; i++) {
		void *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		CHECK(p != MAP_FAILED && (uintptr_t)p >> 31 == 0);
		CHECK(munmap(p, 1 << 20) == 0);
	}
	void *large = mmap(0, 600 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0);
	CHECK(large != MAP_FAILED && (uintptr_t)large >> 31 == 0);
	CHECK(munmap(large, 600 << 20) == 0);
}

static void await(const char *what, pid_t pid)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status(what, status);
}

int main(int argc, char **argv)
{
	pass[0] = add, pass[1] = sub, pass[2] = mul, pass[3] = neg;
	if (argc > 1) {
		pieces(1);
		return 7;
	}
	pthread_t t[8];
	for (long i = 0; i < 8; i++)
		CHECK(pthread_create(&t[i], 0, worker, (void *)i) == 0);
	all();
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		pieces(0);
		_exit(failures ? 1 : 5);
	}
	await("forked", pid);
	pid = vfork();
	if (pid == 0) {
		execl("/proc/self/exe", argv[0], "again", (char *)0);
		_exit(3);
	}
	await("executed", pid);
	pieces(1);
	stop = 1;
	for (long i = 0; i < 8; i++) {
		void *rounds;
		CHECK(pthread_join(t[i], &rounds) == 0 && rounds != (void *)-1 && rounds != 0);
	}
	DONE();
}
