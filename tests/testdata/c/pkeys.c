// Memory protection keys in signal handlers: the rights that a handler starts with, those in its frame, what it changes there.
// Where the processor or the kernel has no keys it only says so.
#include "guest.h"
#include <cpuid.h>
#include <sys/ucontext.h>

static int key, faults;
static unsigned rights_at; // of PKRU in the extended state
static volatile char *page;

static unsigned rdpkru(void)
{
	unsigned v, d;
	__asm__ volatile("rdpkru" : "=a"(v), "=d"(d) : "c"(0));
	return v;
}

static void wrpkru(unsigned v) { __asm__ volatile("wrpkru" : : "a"(v), "c"(0), "d"(0) : "memory"); }

static unsigned *saved(void *ctx) { return (unsigned *)((char *)((ucontext_t *)ctx)->uc_mcontext.fpregs + rights_at); }

static void on_usr(int sig, siginfo_t *si, void *ctx)
{
	(void)si;
	printf("signal %d: rights %x saved %x\n", sig, rdpkru(), *saved(ctx));
	wrpkru(0);
}

static void on_segv(int sig, siginfo_t *si, void *ctx)
{
	faults++;
	printf("signal %d code %d address %d key %d rights %x saved %x error %llx\n", sig, si->si_code, si->si_addr == page, (int)si->si_pkey == key,
	       rdpkru(), *saved(ctx), ((ucontext_t *)ctx)->uc_mcontext.gregs[REG_ERR]);
	*saved(ctx) &= ~(3u << 2 * key); // the access is done again
}

int main(void)
{
	unsigned a, c, d;

	key = pkey_alloc(0, 0);
	if (key < 0) {
		printf("no keys\n");
		DONE();
	}
	CHECK(__get_cpuid_count(0xd, 9, &a, &rights_at, &c, &d));
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(pkey_mprotect((void *)page, 4096, PROT_READ | PROT_WRITE, key) == 0);
	struct sigaction sa = {.sa_sigaction = on_usr, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
	sa.sa_sigaction = on_segv;
	CHECK(sigaction(SIGSEGV, &sa, NULL) == 0);
	page[0] = 5;
	CHECK(pkey_set(key, PKEY_DISABLE_WRITE) == 0);
	unsigned before = rdpkru();
	raise(SIGUSR1);
	CHECK(rdpkru() == before && page[0] == 5 && faults == 0);
	page[0] = 6;
	CHECK(faults == 1 && page[0] == 6);
	CHECK(pkey_set(key, PKEY_DISABLE_ACCESS) == 0);
	CHECK(page[0] == 6 && faults == 2);
	// System calls of the program keep to the rights, too.
	CHECK(pkey_set(key, PKEY_DISABLE_ACCESS) == 0);
	CHECK(write(1, (void *)page, 1) == -1 && errno == EFAULT);
	CHECK(pkey_set(key, 0) == 0 && pkey_free(key) == 0);
	DONE();
}
