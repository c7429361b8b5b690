// Exercises the translated forms: its output under translation must be what it prints natively.
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t fib(uint64_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

static int ascending(const void *a, const void *b) {
	int x = *(const int *)a, y = *(const int *)b;
	return (x > y) - (x < y);
}

static uint64_t interpret(const char *code, uint64_t acc) {
	for (;; code++)
		switch (*code) {
		case 'a': acc += 1; break;
		case 'b': acc *= 3; break;
		case 'c': acc ^= acc >> 7; break;
		case 'd': acc = acc << 5 | acc >> 59; break;
		case 'e': acc -= 77; break;
		case 'f': acc = ~acc; break;
		case 'g': acc += fib(10); break;
		case 'h': acc ^= 0x123456789abcdef; break;
		default: return acc;
		}
}

static uint64_t apply(uint64_t (*f)(uint64_t), uint64_t v) { return f(v) + 1; }
static uint64_t twice(uint64_t v) { return 2 * v; }
static uint64_t square(uint64_t v) { return v * v; }
static uint64_t (*functions[])(uint64_t) = {twice, square, fib};

// What needs a supervisor if calls leave return addresses of the cache: a jump to one, and a return to another address.
#ifdef NATIVE_RETURNS
#define BACK abort()
#define LEAP "jmp *%rax\n"
#else
#define BACK longjmp(env, 42)
#define LEAP "push %rax; ret\n" // return without a call
#endif

static jmp_buf env;
static int depth(int n) {
	if (n == 0)
		BACK;
	return depth(n - 1) + 1;
}

// Forms that a compiler seldom makes.
uint64_t odd(uint64_t v);
__asm__(
	".text\n.globl odd\n.type odd,@function\n"
	"odd: mov $5, %ecx\n"
	"1: lea 3(%rdi,%rdi,2), %rdi; loop 1b\n"
	"jrcxz 2f; ud2\n"
	"2: mov $0, %esi; cmp $1, %esi; adc %rsi, %rdi\n" // flags live across what follows
	"push %rdi; push %rdi; call popped\n"             // ret n
	"mov %rax, %r8; lea 3f(%rip), %rax\n" LEAP
	"ud2\n"
	"3: mov %r8, %rax; call 4f\n" // call of the next instruction
	"4: pop %rdx; lea 4b(%rip), %rcx; cmp %rcx, %rdx; jne 9f\n"
	"mov $0x777, %ecx; call *5f(%rip); add %rcx, %rax\n" // rcx lives across calls
	"lea add1(%rip), %rcx; call *%rcx\n"
	"mov %rsp, %rdx; lea -256(%rsp), %rsp; call add1; mov %rdx, %rsp\n"
	"push 5f(%rip); call *(%rsp); lea 8(%rsp), %rsp\n" // operand relative to rsp
	"stc; call keep; jnc 9f\n"
	"je 7f+1\n" // into the middle of an instruction
	"7: lock addq $1, counter(%rip)\n"
	"add counter(%rip), %rax\n"
	"ret\n"
	"9: ud2\n"
	"add1: inc %rax; ret\n"
	"keep: ret\n"
	"popped: mov 8(%rsp), %rax; add 16(%rsp), %rax; ret $16\n"
	".size odd, .-odd\n"
	".data\n.balign 8\n5: .quad add1\ncounter: .quad 1000\n.text\n");

// Its own GS base.
static uint64_t segment(void) {
	static uint64_t data[32];
	uint64_t r = 0, base = 0;
	__asm__ volatile(
		"wrgsbase %3; rdgsbase %1\n"
		"movq $7, %%gs:8; addq $5, %%gs:8; mov %%gs:8, %0\n"
		"mov $16, %%ecx; mov %%cl, %%gs:(%%rcx,%%rcx); movzbl %%gs:32, %%ecx; add %%rcx, %0\n"
		"mov $0xabcd, %%eax; mov %%ah, %%gs:40; movzbl %%gs:40, %%ecx; add %%rcx, %0\n"
		: "=&r"(r), "=&r"(base)
		: "0"(r), "r"(data)
		: "rcx", "rax", "memory");
	return r + (base == (uint64_t)data) + data[1];
}

int main(int argc, char **argv) {
	int numbers[1000];
	uint64_t x = 88172645463325252;
	for (int i = 0; i < 1000; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		numbers[i] = (int)x;
	}
	qsort(numbers, 1000, sizeof *numbers, ascending);
	for (int i = 0; i < 1000; i += 100)
		printf("%d ", numbers[i]);
	printf("\nfib %lu\n", fib(24));
	printf("interpreter %lx\n", interpret("abcdefghhgfedcbadcgahebf", argc));
	for (int i = 0; i < 3; i++)
		printf("apply %lu\n", apply(functions[i], 12));
#ifndef NATIVE_RETURNS
	printf("longjmp %d\n", setjmp(env) ? 42 : depth(50));
#endif
	printf("odd %lx\n", odd(3));
	printf("segment %lx\n", segment());
	char *s = malloc(100000);
	memset(s, 'x', 99999);
	s[99999] = 0;
	strcat(strcpy(s + 99900, "the end"), ".");
	printf("%zu %s %.3f %s\n", strlen(s), strchr(s, 't'), 3.14159 * argc, strstr(s, "end"));
	free(s);
	printf("%g %ld %d\n", strtod("1e-3", NULL), strtol("-123", NULL, 10), getpid() > 0);
	fflush(stdout);
	return (int)(fib(10) & 63);
}
