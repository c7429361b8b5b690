// Atomic instructions between threads: each lock prefix, exchanges, 16-byte compare-and-exchange, with operands relative to
// rip, by register and in code far from its data; stores that bypass the cache; the order of stores and loads.
#include "guest.h"
#include <immintrin.h>
#include <pthread.h>

enum { THREADS = 4, ROUNDS = 10000 };

static pthread_barrier_t meet;

// All of these are changed by all threads at the same time.
static struct {
	uint64_t inc, dec, add, sub, adc, sbb, xadd, cmpxchg, neg, not, swap, far;
	uint32_t or, and, xor, bits;
	uint16_t word;
	uint8_t byte;
} v __attribute__((aligned(64)));
static uint64_t taken[THREADS];

#define RIP(text, var, ...) __asm__ volatile(text : "+m"(var) : __VA_ARGS__ : "cc", "memory")

static long (*far_add)(long);

static void count(int self)
{
	uint64_t one = 1, old, token = self + 1;
	for (int i = 0; i < ROUNDS; i++) {
		RIP("lock incq %0", v.inc);
		RIP("lock decq %0", v.dec);
		RIP("lock addq $3, %0", v.add);
		RIP("lock subq %1, %0", v.sub, "r"(one));
		RIP("stc\n\tlock adcq $1, %0", v.adc);
		RIP("stc\n\tlock sbbq $1, %0", v.sbb);
		RIP("lock notq %0", v.not);
		RIP("lock negq %0", v.neg);
		RIP("lock xorl %1, %0", v.xor, "r"(1u << (self * 8 + i % 8)));
		RIP("lock addw $1, %0", v.word);
		RIP("lock addb $1, %0", v.byte);
		RIP("lock orl %1, %0", v.or, "r"(1u << (self * 8 + i % 8)));
		RIP("lock andl %1, %0", v.and, "r"(~(1u << (self * 8 + i % 8))));
		// Each thread owns some bits of one word.
		uint32_t bit = self * 8 + i % 8;
		uint8_t was;
		__asm__ volatile("lock btsl %2, %0\n\tsetc %1" : "+m"(v.bits), "=q"(was) : "r"(bit) : "cc");
		CHECK(!was);
		__asm__ volatile("lock btcl %2, %0\n\tsetc %1" : "+m"(v.bits), "=q"(was) : "r"(bit) : "cc");
		CHECK(was);
		__asm__ volatile("lock btrl %2, %0\n\tsetc %1" : "+m"(v.bits), "=q"(was) : "r"(bit) : "cc");
		CHECK(!was);
		uint64_t n = 1;
		__asm__ volatile("lock xaddq %1, %0" : "+m"(v.xadd), "+r"(n) : : "cc");
		CHECK(n < (uint64_t)THREADS * ROUNDS);
		old = v.cmpxchg;
		do
			n = old * 5 + 1; // the order of steps doesn't matter, only their number
		while (({ uint64_t e = old; __asm__ volatile("lock cmpxchgq %2, %0" : "+m"(v.cmpxchg), "+a"(old) : "r"(n) : "cc"); e != old; }));
		// Tokens change places, none is lost: the sum of what is held stays.
		__asm__ volatile("xchgq %1, %0" : "+m"(v.swap), "+r"(token));
		far_add(2);
	}
	taken[self] = token;
}

// A list of free nodes whose head is a pointer and a count, exchanged together.
struct node { struct node *next; uint64_t user; };
static struct head { struct node *first; uint64_t count; } head __attribute__((aligned(16)));
static struct node nodes[8];

static int exchange(struct head *expect, struct head next)
{
	uint8_t ok;
	__asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
			 : "=q"(ok), "+m"(head), "+a"(expect->first), "+d"(expect->count) : "b"(next.first), "c"(next.count) : "cc", "memory");
	return ok;
}

static void list(int self)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct head h = {head.first, head.count};
		while (!h.first || !exchange(&h, (struct head){h.first->next, h.count + 1}))
			if (!h.first)
				h = (struct head){head.first, head.count};
		struct node *n = h.first;
		CHECK(__atomic_exchange_n(&n->user, self + 1, __ATOMIC_RELAXED) == 0);
		CHECK(__atomic_exchange_n(&n->user, 0, __ATOMIC_RELAXED) == (uint64_t)self + 1);
		h = (struct head){head.first, head.count};
		do
			n->next = h.first;
		while (!exchange(&h, (struct head){n, h.count + 1}));
	}
}

// Thread 2k writes rounds of data past the cache and says so after a fence; thread 2k+1 reads them.
static struct channel { uint64_t data[64]; uint32_t words[16]; volatile uint64_t said, seen; } channels[THREADS / 2] __attribute__((aligned(64)));

static void bypass(int self)
{
	struct channel *c = &channels[self / 2];
	for (uint64_t round = 1; round <= 100; round++) {
		if (self % 2) {
			while (c->said != round)
				sched_yield();
			for (int i = 0; i < 64; i++)
				CHECK(c->data[i] == round * 64 + i / 2 * 2);
			for (int i = 0; i < 16; i++)
				CHECK(c->words[i] == (uint32_t)round + i);
			c->seen = round;
			continue;
		}
		for (int i = 0; i < 64; i += 2)
			if (i % 8 == 0)
				_mm_stream_ps((float *)&c->data[i], _mm_castsi128_ps(_mm_set1_epi64x(round * 64 + i)));
			else if (i % 8 == 2)
				_mm_stream_pd((double *)&c->data[i], _mm_castsi128_pd(_mm_set1_epi64x(round * 64 + i)));
			else
				_mm_stream_si128((__m128i *)&c->data[i], _mm_set1_epi64x(round * 64 + i));
		for (int i = 0; i < 16; i++)
			_mm_stream_si32((int *)&c->words[i], (int)round + i);
		_mm_sfence();
		c->said = round;
		while (c->seen != round)
			sched_yield();
	}
}

// Of two threads that each set their flag and then look at the other's, at least one sees it: with a fence or a locked
// instruction between (Intel SDM vol. 3, 9.2.3.4 and 9.2.5).
static volatile uint32_t flag[2][2000], saw[2][2000];

static void dekker(int self)
{
	for (int i = 0; i < 2000; i++) {
		flag[self][i] = 1;
		if (i % 3 == 0)
			_mm_mfence();
		else if (i % 3 == 1)
			__asm__ volatile("lock orl $0, (%%rsp)" : : : "cc", "memory");
		else
			RIP("xchgb %0, %%al", v.byte, "a"((uint8_t)v.byte));
		saw[self][i] = flag[1 - self][i];
	}
}

static void *run(void *arg)
{
	int self = (int)(intptr_t)arg;
	pthread_barrier_wait(&meet);
	count(self);
	pthread_barrier_wait(&meet);
	list(self);
	pthread_barrier_wait(&meet);
	bypass(self);
	pthread_barrier_wait(&meet);
	if (self < 2)
		dekker(self);
	return NULL;
}

// make_far makes code beyond 2 GiB from here, whose operand is relative to rip, in the page after it.
static uint64_t *make_far(void)
{
	static const unsigned char code[] = {
		0xf0, 0x48, 0x0f, 0xc1, 0x3d, 0xf7, 0x0f, 0, 0, // lock xadd %rdi, 0xff7(%rip)
		0x48, 0x89, 0xf8, 0xc3, // mov %rdi, %rax; ret
	};
	char *m = mmap((void *)0x30000000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m != MAP_FAILED);
	memcpy(m, code, sizeof code);
	CHECK(mprotect(m, 4096, PROT_READ | PROT_EXEC) == 0);
	far_add = (long (*)(long))m;
	return (uint64_t *)(m + 4096);
}

int main(void)
{
	pthread_t t[THREADS];
	uint64_t *far = make_far(), cmpxchg = 0, tokens = 0;

	v.and = ~0u;
	v.neg = 5;
	for (int i = 0; i < 8; i++)
		nodes[i].next = i < 7 ? &nodes[i + 1] : NULL;
	head.first = nodes;
	CHECK(pthread_barrier_init(&meet, NULL, THREADS) == 0);
	for (intptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t[i], NULL, run, (void *)i) == 0);
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	for (int i = 0; i < THREADS * ROUNDS; i++)
		cmpxchg = cmpxchg * 5 + 1;
	for (int i = 0; i < THREADS; i++)
		tokens += taken[i];
	CHECK(v.cmpxchg == cmpxchg && *far == 2ul * THREADS * ROUNDS);
	printf("inc %ld dec %ld add %ld sub %ld adc %ld sbb %ld xadd %ld\n", v.inc, v.dec, v.add, v.sub, v.adc, v.sbb, v.xadd);
	printf("neg %ld not %ld or %x and %x xor %x bits %x word %x tokens %ld\n", v.neg, v.not, v.or, v.and, v.xor, v.bits, v.word, tokens + v.swap);
	int free_nodes = 0, both = 0;
	for (struct node *n = head.first; n; n = n->next)
		free_nodes++;
	for (int i = 0; i < 2000; i++)
		both += !saw[0][i] && !saw[1][i];
	printf("nodes %d exchanges %ld unseen %d\n", free_nodes, head.count, both);
	DONE();
}
