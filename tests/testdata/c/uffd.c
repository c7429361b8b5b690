// Code in memory that a userfaultfd fills when it is executed first: the thread that fills it runs code for the first time
// meanwhile. Some of it is thrown away and filled again.
#include "guest.h"
#include <linux/userfaultfd.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>

enum { PAGES = 8 };

static int uffd;
static unsigned char *p;

// fill fills pages until one is asked for below p.
static void *fill(void *arg)
{
	(void)arg;
	static unsigned char code[4096];
	for (int n = 1;; n++) {
		struct uffd_msg m;
		struct pollfd pf = {uffd, POLLIN, 0};
		CHECK(poll(&pf, 1, -1) == 1 && read(uffd, &m, sizeof m) == sizeof m);
		uintptr_t page = m.arg.pagefault.address & -4096ul;
		char text[50];
		snprintf(text, sizeof text, "%.3f", log(n) * sin(n));
		int v = n + atof(text) * 0;
		memset(code, 0x90, sizeof code);
		code[16] = 0xb8; // mov eax,v; ret
		memcpy(code + 17, &v, 4);
		code[21] = 0xc3;
		code[4095] = 0xb8; // the first byte of an instruction that goes on in the next page
		if (page != (uintptr_t)p)
			memcpy(code, "\x07\x00\x00\x00\xc3", 5);
		struct uffdio_copy c = {.dst = page, .src = (uintptr_t)code, .len = 4096};
		CHECK(ioctl(uffd, UFFDIO_COPY, &c) == 0);
		if (page == (uintptr_t)p)
			return NULL;
	}
}

static int call(int page, int off) { return ((int (*)(void))(p + 4096 * page + off))(); }

// open1 opens a userfaultfd: by the system call, for faults of user mode only, or by the device.
static int open1(const char *how)
{
	if (strcmp(how, "device") == 0) {
		int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		return dev < 0 ? -1 : ioctl(dev, 0xaa00 /* USERFAULTFD_IOC_NEW */, O_CLOEXEC);
	}
	return syscall(SYS_userfaultfd, O_CLOEXEC | (strcmp(how, "user") == 0 ? 1 /* UFFD_USER_MODE_ONLY */ : 0));
}

int main(int argc, char **argv)
{
	struct uffdio_api api = {.api = UFFD_API};
	pthread_t t;
	long sum = 0;
	uffd = open1(argc > 1 ? argv[1] : "");
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0) { // not permitted here
		puts("not permitted");
		return 0;
	}
	p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register r = {.range = {(uintptr_t)p, PAGES * 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	CHECK(ioctl(uffd, UFFDIO_REGISTER, &r) == 0);
	CHECK(pthread_create(&t, NULL, fill, NULL) == 0);
	for (int i = PAGES - 1; i >= 4; i--)
		sum = sum * 10 + call(i, 16);
	sum = sum * 10 + call(1, 4095); // page 2 is not there yet
	for (int i = 0; i < 3; i++) {
		CHECK(madvise(p + 4096 * 5, 4096, MADV_DONTNEED) == 0);
		sum = sum * 10 + call(5, 16);
		for (int k = 0; k < 60000; k++)
			call(5, 16);
	}
	sum = sum * 10 + call(0, 16);
	CHECK(pthread_join(t, NULL) == 0);
	printf("%ld\n", sum);
	DONE();
}
