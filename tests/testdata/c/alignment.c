// Code that changes, and runs with the AC flag set: instructions are fetched
// from any address then, only data must be aligned (AMD64 manual vol. 2, 3.1.6).
#include "guest.h"

static const unsigned char text[] = {
	0x9c,                                           // pushf
	0x48, 0x81, 0x0c, 0x24, 0x00, 0x00, 0x04, 0x00, // or qword [rsp], 1<<18
	0x9d,                                           // popf
	0xeb, 0x00,                                     // jmp to what follows
	0xb8, 0, 0, 0, 0,                               // mov eax, value
	0xeb, 0x00,                                     // jmp to what follows
	0x9c,                                           // pushf
	0x48, 0x81, 0x24, 0x24, 0xff, 0xff, 0xfb, 0xff, // and qword [rsp], ~(1<<18)
	0x9d,                                           // popf
	0xc3,                                           // ret
};
enum { value = 13 };

int main(void)
{
	unsigned char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	for (int off = 0; off < 20; off++) {
		unsigned sum = 0;
		unsigned char *at = p + 4096 - 20 + off; // also over the end of the page
		memcpy(at, text, sizeof text);
		for (unsigned i = 0; i < 50; i++) {
			unsigned v = i * 0x01010101;
			memcpy(at + value, &v, 4);
			sum += ((unsigned (*)(void))at)();
		}
		printf("%d: %u\n", off, sum);
	}
	DONE();
}
