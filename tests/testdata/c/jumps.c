// Control flow that compilers make: jump tables, computed gotos, function
// pointers, deep recursion, setjmp and longjmp, alloca, variadic calls.
#include "guest.h"
#include <alloca.h>
#include <setjmp.h>
#include <stdarg.h>

__attribute__((noinline)) static int table(int i)
{
	switch (i) {
	case 0: return 3;
	case 1: return puts("one"), 1;
	case 2: return 4;
	case 3: return 1;
	case 4: return 5;
	case 5: return 9;
	case 6: return 2;
	case 7: return 6;
	case 8: return puts("eight"), 8;
	case 9: return 5;
	default: return -1;
	}
}

// A threaded interpreter: every operation jumps to the next one itself.
__attribute__((noinline)) static long interpret(const unsigned char *code)
{
	static void *ops[] = {&&halt, &&inc, &&dec, &&dbl, &&loop};
	long acc = 0, count = 1000;
	const unsigned char *pc = code;

#define NEXT goto *ops[*pc++]
	NEXT;
inc:	acc++;
	NEXT;
dec:	acc--;
	NEXT;
dbl:	acc = acc * 2 % 1000003;
	NEXT;
loop:	if (--count > 0)
		pc = code;
	NEXT;
halt:	return acc;
}

__attribute__((noinline)) static uint64_t deep(int n, uint64_t x)
{
	volatile uint64_t here = x;
	if (n == 0)
		return x;
	return deep(n - 1, x * 3 + n) + here;
}

__attribute__((noinline)) static int sum(int n, ...)
{
	va_list ap;
	int s = 0;
	va_start(ap, n);
	while (n--)
		s += va_arg(ap, int);
	va_end(ap);
	return s;
}

static int add(int a, int b) { return a + b; }
static int sub(int a, int b) { return a - b; }
static int mul(int a, int b) { return a * b; }

static jmp_buf env;
__attribute__((noinline)) static void jumper(int n)
{
	if (n == 0)
		longjmp(env, 5);
	jumper(n - 1);
	puts("not reached");
}

int main(void)
{
	int (*volatile f[])(int, int) = {add, sub, mul};
	static const unsigned char code[] = {1, 1, 3, 2, 1, 3, 1, 4, 0};
	int total = 0;

	for (int i = -1; i < 12; i++)
		total = total * 7 + table(i);
	printf("table %d\n", total);
	printf("interpret %ld\n", interpret(code));
	printf("deep %lu\n", deep(20000, 7));
	printf("sum %d\n", sum(8, 1, 2, 3, 4, 5, 6, 7, 8));
	for (int i = 0; i < 9; i++)
		total = f[i % 3](total, i) % 10007;
	printf("pointers %d\n", total);
	for (volatile int i = 0; i < 100; i++) {
		int r = setjmp(env);
		if (r == 0)
			jumper(i);
		CHECK(r == 5);
	}
	for (int i = 1; i < 5000; i += 499) {
		char *p = alloca(i);
		memset(p, i, i);
		CHECK(p[i - 1] == (char)i);
	}
	DONE();
}
