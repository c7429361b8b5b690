// Code that changes: permissions that come and go, every operand that may be
// patched, several functions in turn at one address, the kernel as the writer,
// memory that vanishes under the code, code and data in one page and on the stack.
#include "code.h"
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <ucontext.h>

static const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC, rwx = PROT_READ | PROT_WRITE | PROT_EXEC;

// add writes a function that adds v to its argument.
static void add(unsigned char *p, int v)
{
	memcpy(p, "\x48\x8d\x87", 3); // lea rax,[rdi+v]
	memcpy(p + 3, &v, 4);
	p[7] = 0xc3;
}

// set writes a function that returns v.
static void set(unsigned char *p, int v)
{
	p[0] = 0xb8; // mov eax,v
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

// hot calls a function so often that its page counts as settled.
static void hot(void *p)
{
	long sum = 0;
	for (int i = 0; i < 60000; i++)
		sum += ((fn)p)(0);
	CHECK(sum == 60000 * ((fn)p)(0));
}

static void permissions(void)
{
	unsigned char *p = map(8 * 4096, rw);
	for (int i = 0; i < 8; i++)
		set(p + 4096 * i, i);
	printf("data %ld\n", call(p, 0));
	long sum = 0;
	for (int i = 0; i < 60; i++) {
		// All of it, a part of it, and a part of that.
		CHECK(mprotect(p, 8 * 4096, rx) == 0);
		sum += call(p, 0) + call(p + 4096, 0) + call(p + 7 * 4096, 0);
		if (i % 20 == 10)
			hot(p + 4096);
		CHECK(mprotect(p + 4096, 4096 * (i % 7), rw) == 0);
		sum = sum * 3 + call(p + 4096, 0) + call(p + 4 * 4096, 0) + call(p, 0);
		CHECK(mprotect(p, 4096 * 8, i % 3 ? rw : i % 2 ? PROT_NONE : PROT_READ) == 0);
		sum = sum * 3 + call(p + 4096, 0) + call(p, 0);
		CHECK(mprotect(p, 8 * 4096, rw) == 0);
		set(p + 4096, i);
	}
	CHECK(mprotect(p, 8 * 4096, rwx) == 0);
	sum += call(p + 4096, 0);
	CHECK(munmap(p, 4096) == 0);
	printf("permissions %ld, unmapped %ld\n", sum, call(p, 0));
	CHECK(mprotect(p, 8 * 4096, rx) == -1 && errno == ENOMEM);
	printf("still there %ld\n", call(p + 2 * 4096, 0));
	// A function across a border, half of which loses the permission.
	CHECK(mprotect(p + 4096, 7 * 4096, rwx) == 0);
	for (int i = 0; i < 10; i++) {
		unsigned char *q = p + 3 * 4096 - 3;
		set(q, i);
		sum += call(q, 0);
		CHECK(mprotect(p + 3 * 4096, 4096, rw) == 0);
		if (sigsetjmp(env, 1) == 0) {
			sum += ((fn)q)(0);
			CHECK(0);
		}
		CHECK(seen.si_signo == SIGSEGV && seen.si_addr == p + 3 * 4096);
		CHECK(mprotect(p + 3 * 4096, 4096, rwx) == 0);
		sum += call(q, 0);
	}
	printf("border %ld\n", sum);
	munmap(p + 4096, 7 * 4096);
}

// operands changes the immediate operand of one instruction again and again.
static void operands(void)
{
	static const struct {
		const char *code; // immediate operand last; rax is 5, and so are rcx and r9
		int len, imm;
	} forms[] = {
		{"\xb8", 1, 4}, {"\x48\xb8", 2, 8}, {"\xb0", 1, 1}, {"\xb4", 1, 1}, {"\x41\xb9", 2, 4}, {"\x49\xb9", 2, 8}, {"\xb9", 1, 4},
		{"\xc7\xc0", 2, 4}, {"\x48\xc7\xc1", 3, 4}, {"\x41\xc7\xc1", 3, 4}, {"\x49\xc7\xc1", 3, 4}, {"\xc6\xc1", 2, 1},
		{"\x05", 1, 4}, {"\x48\x05", 2, 4}, {"\x04", 1, 1}, {"\x66\x05", 2, 2}, {"\x2d", 1, 4}, {"\x48\x35", 2, 4}, {"\x3d", 1, 4},
		{"\x81\xc0", 2, 4}, {"\x48\x81\xe9", 3, 4}, {"\x41\x81\xe1", 3, 4}, {"\x49\x81\xc9", 3, 4}, {"\x81\xf9", 2, 4}, {"\x48\x81\xd9", 3, 4},
		{"\x83\xc0", 2, 1}, {"\x48\x83\xe9", 3, 1}, {"\x41\x83\xe1", 3, 1}, {"\x49\x83\xf1", 3, 1}, {"\x83\xd1", 2, 1}, {"\x66\x83\xc1", 3, 1},
		{"\x6a", 1, 1}, {"\x68", 1, 4}, {"\x69\xc1", 2, 4}, {"\x48\x6b\xc1", 3, 1}, {"\xc1\xe0", 2, 1}, {"\xa9", 1, 4}, {"\xf7\xc1", 2, 4},
		{"\x48\x8d\x80", 3, 4}, {"\x3e\xb8", 2, 4}, {"\x40\xb9", 2, 4},
	};
	uint64_t seed = 1, sum = 0;
	unsigned char *p = map(4096, rwx);
	for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
		unsigned char *q = p + 11 * f;
		int n = 0, push = forms[f].code[0] == 0x6a || forms[f].code[0] == 0x68;
		n += forms[f].len;
		memcpy(q, forms[f].code, n);
		unsigned char *imm = q + n;
		n += forms[f].imm;
		if (push)
			q[n++] = 0x58; // pop rax
		q[n++] = 0xc3;
		for (int i = 0; i < 20; i++) {
			uint64_t v = mix(&seed) & (i % 2 ? -1 : 0xff);
			memcpy(imm, &v, forms[f].imm);
			if (push)
				imm[forms[f].imm] = 0x58;
			imm[forms[f].imm + push] = 0xc3;
			uint64_t a = 5, c = i % 5, r9 = 5, flags;
			register uint64_t r9r __asm__("r9") = r9;
			__asm__ volatile("xor %%edx,%%edx; cmp $3,%%rcx; call *%[q]; pushfq; pop %%rdx"
				: "+a"(a), "+c"(c), "+r"(r9r), "=&d"(flags) : [q] "r"(q) : "memory", "cc");
			sum = sum * 31 + a + 3 * c + 5 * r9r + 7 * (flags & 0x8c5);
		}
	}
	printf("operands %lx\n", (unsigned long)sum);
	munmap(p, 4096);
}

// turns puts functions of different shapes at one address in turn.
static void turns(void)
{
	static const char *shapes[] = {
		"\x48\x8d\x47\x01\xc3", "\x48\x8d\x04\x3f\xc3", "\x48\x89\xf8\x48\xf7\xd8\xc3", "\x90\x48\x89\xf8\xc3",
		"\x48\x85\xff\x74\x04\x48\x89\xf8\xc3\x6a\x07\x58\xc3", "\x31\xc0\xc3", "\x48\x8d\x47\x02\xc3",
	};
	unsigned char *p = map(4096, rwx);
	uint64_t seed = 3;
	long sum = 0;
	for (int i = 0; i < 3000; i++) {
		const char *s = shapes[(i < 1000 ? i % 2 : i < 2000 ? i % 7 : (int)(mix(&seed) % 7))];
		memcpy(p, s, 16 - 2 - (s == shapes[4]));
		sum += ((fn)p)(i % 5);
	}
	printf("turns %ld\n", sum);
	munmap(p, 4096);
}

// kernel lets system calls write code that is hot.
static void kernel(void)
{
	int fds[2], fd = memfd_create("code", 0);
	unsigned char *p = map(3 * 4096, rwx), *q = p + 4096, code[8];
	struct iovec local = {code, 6}, remote = {q, 6};
	long sum = 0;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0 && ftruncate(fd, 4096) == 0);
	for (int i = 1; i < 8; i++) {
		set(q, 1000);
		hot(q);
		set(code, i);
		switch (i) {
		case 1:
			CHECK(write(fds[0], code, 6) == 6 && read(fds[1], q, 6) == 6);
			break;
		case 2:
			CHECK(write(fds[0], code, 6) == 6 && recv(fds[1], q, 6, 0) == 6);
			break;
		case 3:
			CHECK(process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 6);
			break;
		case 4:
			CHECK(pwrite(fd, code, 6, 0) == 6 && preadv(fd, &remote, 1, 0) == 6);
			break;
		case 5:
			CHECK(madvise(p, 3 * 4096, MADV_DONTNEED) == 0 && q[0] == 0);
			set(q, i);
			break;
		case 6:
			CHECK(mmap(q, 4096, rwx, MAP_PRIVATE | MAP_FIXED, fd, 0) == q);
			break;
		case 7:
			set(p + 2 * 4096, i);
			CHECK(mremap(p + 2 * 4096, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
		}
		sum = sum * 10 + ((fn)q)(0);
	}
	printf("kernel %ld\n", sum);
	// What is taken and can't be stored is lost; a file is read as a whole.
	int dgram[2], ev = eventfd(0, 0);
	unsigned char *big = map(4 * 4096, rwx), got[64];
	struct msghdr msg = {.msg_iov = &remote, .msg_iovlen = 1};
	struct iovec parts[2] = {{got, 3}, {big + 4096, 60}};
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram) == 0);
	remote.iov_base = q = big + 4096;
	for (int i = 0; i < 6; i++) {
		uint64_t value = 0x00c300000000b800 + ((uint64_t)i << 16); // from its second byte on: mov eax,i; ret
		set(q, 1000);
		hot(q);
		set(code, i);
		switch (i) {
		case 0:
			CHECK(write(dgram[0], code, 6) == 6 && recv(dgram[1], q, 6, 0) == 6);
			break;
		case 1:
			CHECK(write(dgram[0], code, 6) == 6 && recvmsg(dgram[1], &msg, 0) == 6);
			break;
		case 2:
			CHECK(write(dgram[0], "abc", 3) == 3 && write(dgram[0], code, 6) == 6);
			CHECK(recv(dgram[1], got, 3, 0) == 3 && readv(dgram[1], &remote, 1) == 6);
			break;
		case 3:
			CHECK(write(ev, &value, 8) == 8 && read(ev, q, 8) == 8);
			memmove(q, q + 1, 7);
			break;
		case 4:
			CHECK(ftruncate(fd, 3 * 4096) == 0 && pwrite(fd, code, 6, 4096) == 6);
			CHECK(pread(fd, big, 3 * 4096, 0) == 3 * 4096);
			break;
		case 5:
			memcpy(got, "xyz", 3);
			memcpy(got + 3, code, 6);
			CHECK(write(dgram[0], got, 9) == 9 && readv(dgram[1], parts, 2) == 9 && got[0] == 'x');
		}
		sum = sum * 10 + ((fn)q)(0);
	}
	printf("stored %ld\n", sum);
	// A system call from there.
	memcpy(q, "\xb8\x27\x00\x00\x00\x0f\x05\xc3", 8);
	for (int i = 0; i < 3; i++)
		CHECK(((fn)q)(0) == getpid());
	munmap(big, 4 * 4096);
	close(ev);
	close(dgram[0]);
	close(dgram[1]);
	q = p + 4096;
	// Zeros are add [rax],al, up to the next page.
	for (int i = 0; i < 3; i++) {
		q = mmap(p, 2 * 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		set(q, 1000 + i);
		set(q + 4096, 77 + i);
		CHECK(mprotect(q, 2 * 4096, i == 1 ? rx : rwx) == 0);
		hot(q);
		CHECK(madvise(q, 4096, MADV_DONTNEED) == 0);
		unsigned char cell = 3;
		int n;
		__asm__ volatile("call *%1" : "=a"(n) : "r"(q), "a"(&cell) : "memory", "cc");
		CHECK(n == 77 + i && cell == 3);
	}
	munmap(p, 3 * 4096);
	close(fd);
	close(fds[0]);
	close(fds[1]);
}

// shared has code in memory that other mappings and processes write.
static void shared(void)
{
	int fd = memfd_create("code", 0);
	CHECK(ftruncate(fd, 4096) == 0);
	unsigned char *x = mmap(NULL, 4096, rx, MAP_SHARED, fd, 0);
	unsigned char *w = mmap(NULL, 4096, rw, MAP_SHARED, fd, 0);
	long sum = 0;
	for (int i = 1; i < 9; i++) {
		set(w, i);
		sum = sum * 10 + ((fn)x)(0);
		if (i % 3 == 0)
			hot(x);
		if (i == 4) {
			CHECK(munmap(w, 4096) == 0);
			hot(x);
			w = mmap(NULL, 4096, rw, MAP_SHARED, fd, 0); // while the code is hot
		}
		if (i == 7) {
			hot(x);
			CHECK(mprotect(w, 4096, PROT_READ) == 0 && mprotect(w, 4096, rw) == 0);
		}
	}
	hot(x);
	pid_t pid = fork();
	if (pid == 0) {
		set(w, 9);
		_exit(((fn)x)(0));
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 9);
	printf("shared %ld\n", sum * 10 + ((fn)x)(0));
	unsigned char *a = mmap(NULL, 4096, rwx, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sum = 0;
	for (int i = 1; i < 5; i++) {
		if (i % 2 == 0)
			hot(a);
		pid = fork();
		if (pid == 0) {
			set(a, i);
			_exit(((fn)a)(0));
		}
		CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == i);
		sum = sum * 10 + ((fn)a)(0);
	}
	printf("anonymous %ld\n", sum);
	munmap(a, 4096);
	munmap(x, 4096);
	munmap(w, 4096);
	close(fd);
}

// beside has data that changes in the page of the code, written from both sides.
static void beside(void)
{
	unsigned char *p = map(8192, rwx);
	// inc qword [rip+disp]; mov rax,[rip+disp]; ret
	static const char count[] = "\x48\xff\x05\x79\x00\x00\x00\x48\x8b\x05\x72\x00\x00\x00\xc3";
	memcpy(p, count, sizeof count);
	volatile long *cell = (long *)(p + 128), *other = (long *)(p + 256);
	for (int i = 0; i < 200000; i++) {
		((fn)p)(0);
		*other += *cell & 1;
	}
	printf("beside %ld %ld\n", *cell, *other);
	munmap(p, 8192);
}

// stack executes code in its own frame, while calls and signals use the stack around it.
static void ticked(int sig) { (void)sig; }

static void stack(void)
{
	unsigned char room[8192], *p = room + 4096;
	uintptr_t page = (uintptr_t)room & -4096;
	long sum = 0;
	CHECK(mprotect((void *)page, 3 * 4096, rwx) == 0);
	signal(SIGUSR1, ticked);
	for (int i = 0; i < 400; i++) {
		add(p, i);
		sum = ((fn)p)(sum);
		if (i % 20 == 0)
			raise(SIGUSR1);
		if (i == 200)
			for (int k = 0; k < 50000; k++)
				sum = ((fn)p)(sum) & 0xffffff;
	}
	printf("stack %ld\n", sum);
	CHECK(mprotect((void *)page, 3 * 4096, rw) == 0);
}

static unsigned char *low, *high;

// interrupted checks that the vector registers of an interrupted loop are its own, and changes its own ones.
static void interrupted(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)si;
	ucontext_t *u = uc;
	unsigned char *rip = (unsigned char *)u->uc_mcontext.gregs[REG_RIP];
	if (rip >= low && rip < high) {
		double x[2][2];
		memcpy(x, &u->uc_mcontext.fpregs->_xmm[0], sizeof x);
		CHECK(x[0][0] >= 0 && x[0][0] <= 4e6 && x[0][0] == (long)x[0][0] && x[0][1] == 7 && x[1][0] == 1 && x[1][1] == 0);
	}
	__asm__ volatile("pcmpeqb %%xmm0,%%xmm0; pcmpeqb %%xmm1,%%xmm1" ::: "xmm0", "xmm1");
}

// vectors uses vector registers in code that is checked all the time, since it is on the stack, while signals come.
static void vectors(void)
{
	// 1: addsd xmm0,xmm1; nop [..]; nop [..]; dec rdi; jnz 1b; ret
	static const char code[] = "\xf2\x0f\x58\xc1\x0f\x1f\x80\x00\x00\x00\x00\x0f\x1f\x40\x00\x48\xff\xcf\x75\xec\xc3";
	unsigned char room[8192];
	struct sigaction sa = {.sa_sigaction = interrupted, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct itimerval every = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
	double x[2] = {0, 7}, y[2] = {1, 0}, sum = 0;
	low = room + 4096, high = low + sizeof code;
	CHECK(mprotect((void *)((uintptr_t)room & -4096), 3 * 4096, rwx) == 0);
	memcpy(low, code, sizeof code);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < 4; i++) {
		double z[2];
		long n = 1000000;
		__asm__ volatile("movupd %3,%%xmm0; movupd %4,%%xmm1; call *%5; movupd %%xmm0,%0"
			: "=m"(z), "+D"(n) : "1"(n), "m"(x), "m"(y), "r"(low) : "memory", "cc", "xmm0", "xmm1");
		sum += z[0];
	}
	setitimer(ITIMER_REAL, &never, NULL);
	CHECK(mprotect((void *)((uintptr_t)room & -4096), 3 * 4096, rw) == 0);
	printf("vectors %.0f\n", sum);
}

// itself has code that writes its own next instructions.
static void itself(void)
{
	unsigned char *p = map(4096, rwx);
	// mov [rip+1],edi (the operand of what follows); mov eax,0; ret
	static const char next[] = "\x89\x3d\x01\x00\x00\x00\xb8\x00\x00\x00\x00\xc3";
	// mov byte [rip+0],cl (the opcode of what follows); nop; mov eax,edi; ret: inc, dec or nop of 0xc7, by the opcode
	static const char opcode[] = "\x89\xf1\x89\xf8\x88\x0d\x00\x00\x00\x00\x90\xc3";
	// A loop that turns its own dec edi into a nop: 1: inc eax; dec edi; jnz 1b ... when eax is 9
	static const char loop[] = "\x31\xc0\xff\xc0\x83\xf8\x09\x75\x09\x66\xc7\x05\x07\x00\x00\x00\x31\xff\xff\xcf\x75\xee\xc3";
	long sum = 0;
	memcpy(p, next, sizeof next);
	for (int i = 0; i < 300; i++)
		sum = sum * 3 + ((fn)p)(i * 7);
	printf("next %ld\n", sum);
	memcpy(p, opcode, sizeof opcode);
	sum = 0;
	for (int i = 0; i < 300; i++)
		sum = sum * 3 + ((long (*)(long, long))p)(i, "\x90\xf8\xf5\xfc"[i % 4] & 0xff);
	printf("opcode %ld\n", sum);
	for (int i = 0; i < 20; i++) {
		memcpy(p, loop, sizeof loop);
		sum += ((fn)p)(1000 + i);
	}
	printf("loop %ld\n", sum);
	munmap(p, 4096);
}

// many has thousands of functions of which one changes at a time.
static void many(void)
{
	enum { N = 512, SIZE = 32 };
	unsigned char *p = map(N * SIZE, rw);
	long sum = 0;
	for (int i = 0; i < N; i++)
		add(p + SIZE * i, i);
	for (int i = 0; i < 200; i++) {
		CHECK(mprotect(p, N * SIZE, rw) == 0);
		add(p + SIZE * (i * 7 % N), i);
		CHECK(mprotect(p, N * SIZE, rx) == 0);
		for (int k = 0; k < 20; k++)
			sum = ((fn)(p + SIZE * ((i + k * 37) % N)))(sum);
	}
	printf("many %ld\n", sum);
	munmap(p, N * SIZE);
}

int main(void)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &sa, NULL);
	permissions();
	operands();
	turns();
	kernel();
	shared();
	beside();
	stack();
	vectors();
	itself();
	many();
	DONE();
}
