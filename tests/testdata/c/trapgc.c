// A guest with a bump allocator and a copying collector, for examples/trapgc and bench: it builds binary trees, of which some
// stay alive. The end of the space is found by a compare in each allocation, or by the fault of a store into a protected page
// behind it. Who collects then is the guest itself, by a call or in its handler of SIGSEGV, or the host program.
//
//   trapgc compare|signal|host KILOBYTES LIVE-DEPTH DEPTH ITERATIONS [check]
//
// It prints the nodes and the sum of the live tree, the nanoseconds of all building, and the number of collections.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

enum { page = 4096, tag = 0x2001 };

struct object {
	uint64_t tag;
	struct object *left, *right;
	uint64_t value;
};

// heap is known to the assembly below and to the host.
struct {
	uint64_t from, to, size, limit; // two spaces of size bytes, each with a protected page behind; limit is the end of from
	uint64_t base;                  // of the stack of the mutator
	uint64_t collections;
} heap;

uint64_t saved[16]; // registers in the order of their encoding, during collect
static int checks;

static void fail(const char *what) {
	fprintf(stderr, "trapgc: %s\n", what);
	_Exit(1);
}

// The mutator. Every register but rsp and r15, which is the next free byte, and every word on its stack is either a pointer
// to an object or a number outside of the heap. build makes a tree of depth edi.
#define BUILD(name, ALLOC) \
	".globl build_" name "\nbuild_" name ":\n" \
	"	test %edi, %edi\n" \
	"	jnz 1f\n" \
	"	xor %ecx, %ecx\n" \
	"	xor %edx, %edx\n" \
	"	jmp 2f\n" \
	"1:	push %rbx\n" \
	"	push %rdi\n" \
	"	dec %edi\n" \
	"	call build_" name "\n" \
	"	mov %rax, %rbx\n" \
	"	mov (%rsp), %edi\n" \
	"	dec %edi\n" \
	"	call build_" name "\n" \
	"	mov %rbx, %rcx\n" \
	"	mov %rax, %rdx\n" \
	"	pop %rdi\n" \
	"	pop %rbx\n" \
	"2:\n" ALLOC \
	"	movq $0x2001, (%r15)\n" \
	"	mov %rcx, 8(%r15)\n" \
	"	mov %rdx, 16(%r15)\n" \
	"	mov %r15, %rax\n" \
	"	add $32, %r15\n" \
	"	ret\n" \
	".globl mutate_" name "\nmutate_" name ":\n" /* edi iterations, esi depth, edx depth of the live tree */ \
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n" \
	"	mov %rsp, heap+32(%rip)\n" \
	"	mov heap(%rip), %r15\n" \
	"	mov %edi, %ebp\n" \
	"	mov %esi, %r12d\n" \
	"	mov %edx, %edi\n" \
	"	xor %eax, %eax\n	xor %ecx, %ecx\n	xor %edx, %edx\n	xor %ebx, %ebx\n	xor %esi, %esi\n	xor %r8d, %r8d\n" \
	"	xor %r9d, %r9d\n	xor %r10d, %r10d\n	xor %r11d, %r11d\n	xor %r13d, %r13d\n	xor %r14d, %r14d\n" \
	"	call build_" name "\n" \
	"	mov %rax, %r14\n" \
	"1:	mov %r12d, %edi\n" \
	"	call build_" name "\n" \
	"	mov %rax, %r13\n" \
	"	dec %ebp\n" \
	"	jnz 1b\n" \
	"	mov %r14, %rax\n" \
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n" \
	"	ret\n"

#define EACH(F) F("rax", 0) F("rcx", 1) F("rdx", 2) F("rbx", 3) F("rbp", 5) F("rsi", 6) F("rdi", 7) F("r8", 8) F("r9", 9) \
	F("r10", 10) F("r11", 11) F("r12", 12) F("r13", 13) F("r14", 14) F("r15", 15)
#define SAVE(reg, n) "	mov %" reg ", saved+8*" #n "(%rip)\n"
#define LOAD(reg, n) "	mov saved+8*" #n "(%rip), %" reg "\n"

__asm__(".text\n"
	BUILD("compare",
	"	lea 32(%r15), %rax\n"
	"	cmp heap+24(%rip), %rax\n"
	"	ja 3f\n"
	"4:	mov %rdi, 24(%r15)\n"
	".subsection 1\n"
	"3:	xor %eax, %eax\n"
	EACH(SAVE)
	"	mov %rsp, saved+32(%rip)\n"
	"	and $-16, %rsp\n"
	"	call collect\n"
	EACH(LOAD)
	"	mov saved+32(%rip), %rsp\n"
	"	jmp 4b\n"
	".previous\n")
	BUILD("trap",
	"	mov %rdi, 24(%r15)\n")); // faults behind the end

struct object *mutate_compare(int iterations, int depth, int live);
struct object *mutate_trap(int iterations, int depth, int live);

static int isObject(uint64_t p) { return p - heap.from < heap.size; }

// check walks the space that was filled by a collection up to end.
static void check(uint64_t end) {
	for (uint64_t at = heap.from; at < end; at += sizeof(struct object)) {
		struct object *o = (void *)at;
		if (o->tag != tag || o->value > 64)
			fail("not an object");
		struct object *children[] = {o->left, o->right};
		for (int i = 0; i < 2; i++) {
			uint64_t p = (uint64_t)children[i];
			if (p && (p < heap.from || p >= end || (p - heap.from) % sizeof(struct object)))
				fail("a field that points to no object");
			if (p ? children[i]->value != o->value - 1 : o->value != 0)
				fail("a wrong child");
		}
	}
}

// moved copies an object to the other space, unless it is there already.
static uint64_t moved(uint64_t p, uint64_t *next) {
	struct object *o = (void *)p;
	if (o->tag != tag)
		return o->tag; // where it has gone
	memcpy((void *)*next, o, sizeof *o);
	o->tag = *next;
	*next += sizeof *o;
	return o->tag;
}

// collect copies what is alive, from the registers in saved and the stack, and exchanges the spaces.
void collect(void) {
	uint64_t next = heap.to;
	for (int r = 0; r < 15; r++)
		if (r != 4 && isObject(saved[r]))
			saved[r] = moved(saved[r], &next);
	for (uint64_t *slot = (void *)saved[4]; slot < (uint64_t *)heap.base; slot++)
		if (isObject(*slot))
			*slot = moved(*slot, &next);
	for (struct object *o = (void *)heap.to; (uint64_t)o < next; o++) {
		if (o->left)
			o->left = (void *)moved((uint64_t)o->left, &next);
		if (o->right)
			o->right = (void *)moved((uint64_t)o->right, &next);
	}
	uint64_t old = heap.from;
	heap.from = heap.to;
	heap.to = old;
	heap.limit = heap.from + heap.size;
	heap.collections++;
	saved[15] = next;
	if (next == heap.limit)
		fail("the heap is too small");
	if (checks)
		check(next);
}

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void onFault(int sig, siginfo_t *si, void *context) {
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	if ((uint64_t)si->si_addr - heap.limit >= page)
		fail("a fault that is no end of the space");
	for (int i = 0; i < 16; i++)
		saved[i] = g[order[i]];
	collect();
	for (int i = 0; i < 16; i++)
		g[order[i]] = saved[i];
}

static uint64_t space(void) {
	char *m = mmap(0, heap.size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED || mprotect(m + heap.size, page, PROT_NONE))
		fail("no memory");
	memset(m, 1, heap.size); // the kernel's part of it is not to be timed
	return (uint64_t)m;
}

static uint64_t nodes, sum;

static void count(struct object *o, uint64_t depth) {
	if (o->tag != tag || o->value != depth)
		fail("the live tree is damaged");
	nodes++;
	sum += depth;
	if (o->left) {
		count(o->left, depth - 1);
		count(o->right, depth - 1);
	}
}

int main(int argc, char **argv) {
	if (argc < 6)
		fail("usage: trapgc compare|signal|host KILOBYTES LIVE-DEPTH DEPTH ITERATIONS [check]");
	heap.size = strtoull(argv[2], 0, 10) * 1024 & -page;
	heap.from = space();
	heap.to = space();
	heap.limit = heap.from + heap.size;
	checks = argc > 6;
	int live = atoi(argv[3]), depth = atoi(argv[4]), iterations = atoi(argv[5]);
	if (argv[1][0] == 's') {
		struct sigaction sa = {.sa_sigaction = onFault, .sa_flags = SA_SIGINFO};
		sigaction(SIGSEGV, &sa, 0);
	}
	if (argv[1][0] == 'h') // tells the host where the heap is
		__asm__ volatile("ud2" : : "a"(&heap), "b"(checks) : "memory");
	struct timespec t0, t1;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	struct object *tree = argv[1][0] == 'c' ? mutate_compare(iterations, depth, live) : mutate_trap(iterations, depth, live);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	count(tree, live);
	printf("live %lu sum %lu\nnanoseconds %ld\ncollections %lu\n", nodes, sum, (t1.tv_sec - t0.tv_sec) * 1000000000 + t1.tv_nsec - t0.tv_nsec, heap.collections);
	return 0;
}
