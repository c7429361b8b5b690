// A round through the libc: formatting, floating point, sorting, string
// functions of every length and alignment (they have AVX2 and AVX-512 forms).
#include "guest.h"
#include <math.h>

static int cmp(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	static char a[5000], b[5000];
	static int n[100000];
	uint64_t seed = 1, sum = 0;

	printf("%d %s %c %x %5.2f %g %Lf %zu\n", -5, "str", 'c', 255, 3.14159, 1e100, 2.5L, sizeof(long));
	for (double x = 0.5; x < 5; x += 1.1)
		printf("%.12f %.12f %.12f %.12f\n", sin(x), exp(x), pow(x, 3.3), log(x));

	for (int i = 0; i < 100000; i++)
		n[i] = mix(&seed);
	qsort(n, 100000, sizeof n[0], cmp);
	for (int i = 1; i < 100000; i++)
		CHECK(n[i - 1] <= n[i]);

	for (int len = 0; len < 300; len++)
		for (int off = 0; off < 70; off += 7) {
			memset(a, 'x', sizeof a);
			memset(a + off, 'y', len);
			a[off + len] = 0;
			CHECK((int)strlen(a + off) == len);
			strcpy(b + 3, a + off);
			CHECK(strcmp(a + off, b + 3) == 0);
			CHECK(memchr(a + off, 0, len + 1) == a + off + len);
			memmove(a + off + 1, a + off, len);
			sum = sum * 31 + memcmp(a, b, 400);
			CHECK(strchr(a, 'z') == NULL);
		}
	printf("sum %d\n", sum != 0);
	char *end;
	printf("%ld %g\n", strtol("-0x1234", &end, 0), strtod("1.5e-3", &end));
	for (int i = 1; i < 2000; i++) {
		char *p = malloc(i * 97 % 70000 + 1);
		CHECK(p != NULL);
		p[0] = 1;
		if (i % 3)
			free(p);
	}
	DONE();
}
