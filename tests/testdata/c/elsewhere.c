// Has code at addresses that its standard input says, in the ways to get it there, and answers with what it returns.
#include "guest.h"

int main(void)
{
	static const char code[] = "\xb8\x2a\x00\x00\x00\xc3"; // mov eax,42 ; ret
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char how[16];
	unsigned long at;
	puts("ready");
	fflush(stdout);
	while (scanf("%15s %lx", how, &at) == 2) {
		char *p = (char *)at;
		if (strcmp(how, "mremap") == 0) {
			char *from = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
			memcpy(from, code, sizeof code);
			CHECK(mremap(from, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p);
		} else {
			int exec = strcmp(how, "mmap") == 0 ? PROT_EXEC : 0;
			CHECK(mmap(p, 4096, PROT_READ | PROT_WRITE | exec, flags | MAP_FIXED_NOREPLACE, -1, 0) == p);
			memcpy(p, code, sizeof code);
			CHECK(exec || mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0);
		}
		int sum = 0;
		for (int i = 0; i < 100; i++)
			sum += ((int (*volatile)(void))p)();
		printf("%d\n", sum);
		fflush(stdout);
	}
	DONE();
}
