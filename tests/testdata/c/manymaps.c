// Very many mappings: what the time of a system call or of a new page of code depends on must not be their number.
#include "guest.h"

enum { MAPPINGS = 40000, CODE = 600 };

int main(void)
{
	const int rw = PROT_READ | PROT_WRITE, rwx = PROT_READ | PROT_WRITE | PROT_EXEC;
	int fd = memfd_create("many", 0), sum = 0;
	static unsigned char *code[CODE];
	CHECK(ftruncate(fd, 4096) == 0);
	for (int i = 0; i < MAPPINGS; i++)
		CHECK(mmap(NULL, 4096, rw, MAP_SHARED, fd, 0) != MAP_FAILED);
	for (int i = 0; i < CODE; i++) {
		unsigned char *p = mmap(NULL, 4096, rwx, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(p != MAP_FAILED);
		memcpy(p, "\xb8\x01\x00\x00\x00\xc3", 6); // mov eax,1; ret
		sum += ((int (*)(void))p)();
		code[i] = p;
		if (i % 3 == 0)
			CHECK(munmap(p, 4096) == 0);
	}
	for (int i = 1; i < CODE; i += 3)
		sum += code[i] != code[i + 1] && ((int (*)(void))code[i])() == 1 && ((int (*)(void))code[i + 1])() == 1;
	printf("%d\n", sum);
	DONE();
}
