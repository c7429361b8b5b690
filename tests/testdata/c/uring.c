// The kernel stores into pages with hot code at a time of its own: by io_uring and by asynchronous I/O, into code and into data
// beside it.
#include "guest.h"
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/uio.h>

typedef int (*fn)(int);

static unsigned char *page;
static int fd;

// set writes a function that returns v.
static void set(unsigned char *p, int v)
{
	p[0] = 0xb8; // mov eax,v
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

// hot calls a function so often that its page counts as settled.
static long hot(void *p)
{
	long sum = 0;
	for (int i = 0; i < 200000; i++)
		sum += ((fn)p)(0);
	return sum / 200000;
}

// ring is an instance of io_uring with one entry.
static struct {
	int fd;
	unsigned *head, *tail, *array, *cqHead, *cqTail;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
} ring;

static int ringUp(void)
{
	struct io_uring_params p = {0};
	ring.fd = syscall(SYS_io_uring_setup, 1, &p);
	if (ring.fd < 0)
		return 0;
	char *sq = mmap(NULL, p.sq_off.array + 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, p.cq_off.cqes + 2 * sizeof *ring.cqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, sizeof *ring.sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	CHECK(sq != MAP_FAILED && cq != MAP_FAILED && ring.sqes != MAP_FAILED);
	ring.head = (unsigned *)(sq + p.sq_off.head), ring.tail = (unsigned *)(sq + p.sq_off.tail);
	ring.array = (unsigned *)(sq + p.sq_off.array);
	ring.cqHead = (unsigned *)(cq + p.cq_off.head), ring.cqTail = (unsigned *)(cq + p.cq_off.tail);
	ring.cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
	return 1;
}

// ringRead reads from the file by the ring.
static int ringRead(void *to, size_t n, off_t off)
{
	struct io_uring_sqe *e = ring.sqes;
	memset(e, 0, sizeof *e);
	e->opcode = IORING_OP_READ, e->fd = fd, e->addr = (uintptr_t)to, e->len = n, e->off = off;
	ring.array[0] = 0;
	__atomic_store_n(ring.tail, *ring.tail + 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	unsigned head = *ring.cqHead;
	CHECK(head != __atomic_load_n(ring.cqTail, __ATOMIC_ACQUIRE));
	int r = ring.cqes[head & 1].res;
	__atomic_store_n(ring.cqHead, head + 1, __ATOMIC_RELEASE);
	return r;
}

static aio_context_t aio;

// aioRead does it by asynchronous I/O.
static int aioRead(void *to, size_t n, off_t off)
{
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd, .aio_buf = (uintptr_t)to, .aio_nbytes = n, .aio_offset = off}, *list = &cb;
	struct io_event ev = {0};
	int r = syscall(SYS_io_submit, aio, 1, &list);
	if (r != 1)
		return -errno;
	CHECK(syscall(SYS_io_getevents, aio, 1, 1, &ev, NULL) == 1);
	return ev.res;
}

static void reads(int (*readAt)(void *, size_t, off_t))
{
	long sum = 0;
	for (int i = 0; i < 12; i++) {
		unsigned char code[8] = {0}, data[64];
		set(code, i * 3 + 1);
		CHECK(pwrite(fd, code, sizeof code, 4096 * i) == sizeof code);
		memset(data, i, sizeof data);
		CHECK(pwrite(fd, data, sizeof data, 4096 * i + 64) == sizeof data);
		sum += hot(page);
		CHECK(readAt(page + 1024, sizeof data, 4096 * i + 64) == sizeof data && page[1024 + 63] == i);
		sum += hot(page);
		CHECK(readAt(page, sizeof code, 4096 * i) == sizeof code);
		sum = sum * 2 + ((fn)page)(0);
	}
	printf("%ld\n", sum);
}

int main(void)
{
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fd = memfd_create("file", 0);
	CHECK(page != MAP_FAILED && fd >= 0);
	set(page, 7);
	hot(page);
	if (ringUp())
		reads(ringRead);
	set(page, 8);
	hot(page);
	if (syscall(SYS_io_setup, 4, &aio) == 0)
		reads(aioRead);
	// A child has its own memory, and the ring.
	if (fork() == 0) {
		hot(page);
		if (ring.fd > 0)
			reads(ringRead);
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	DONE();
}
