// Ways into the kernel other than the syscall instruction, and executables
// that xv does not run: vsyscall page, vdso, int 0x80, sysenter, 32-bit code,
// 32-bit programs, set-user-ID programs.
#include "guest.h"
#include <link.h>
#include <setjmp.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int code, trapno;
static void *volatile at;

static void on(int sig, siginfo_t *si, void *ctx)
{
	code = si->si_code;
	at = si->si_addr;
	trapno = ((ucontext_t *)ctx)->uc_mcontext.gregs[REG_TRAPNO];
	siglongjmp(back, sig);
}

static long int80(long nr, long a, long b, long c)
{
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "0"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return r;
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1) {
		printf("ids %d %d, secure %lu\n", getuid() == geteuid(), getgid() == getegid(), getauxval(AT_SECURE));
		return 7;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGTRAP, &sa, NULL);
	int sig;

	// The vsyscall page, if this kernel has one (it may be switched off).
	struct timeval tv = {0}, now;
	time_t tt = 0;
	gettimeofday(&now, NULL);
	if ((sig = sigsetjmp(back, 1)) == 0) {
		CHECK(((long (*)(struct timeval *, void *))0xffffffffff600000)(&tv, NULL) == 0);
		CHECK(tv.tv_sec - now.tv_sec <= 1);
		long t = ((long (*)(time_t *))0xffffffffff600400)(&tt);
		CHECK(t == tt && t - now.tv_sec <= 1);
		unsigned cpu = 99999;
		CHECK(((long (*)(unsigned *, void *, void *))0xffffffffff600800)(&cpu, NULL, NULL) == 0 && cpu < 99999);
		printf("vsyscall: works\n");
		// A pointer that is bad, and a place between the entries.
		if ((sig = sigsetjmp(back, 1)) == 0)
			((long (*)(void *, void *))0xffffffffff600000)((void *)8, NULL);
		printf("vsyscall, bad pointer: signal %d\n", sig);
		if ((sig = sigsetjmp(back, 1)) == 0)
			((long (*)(void *, void *))0xffffffffff600010)(&tv, NULL);
		printf("vsyscall, between: signal %d address %p\n", sig, at);
	} else
		printf("vsyscall: signal %d\n", sig);

	// The vdso: what the C library calls, and the symbols in it.
	const ElfW(Ehdr) *vdso = (void *)getauxval(AT_SYSINFO_EHDR);
	CHECK(vdso != NULL && !memcmp(vdso->e_ident, ELFMAG, SELFMAG));
	struct timespec ts;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &ts) == 0 && clock_gettime(CLOCK_REALTIME, &ts) == 0 && ts.tv_sec - now.tv_sec <= 1);
	CHECK(clock_gettime(12345, &ts) == -1 && errno == EINVAL);

	// The 32-bit entry from 64-bit code.
	CHECK(int80(20, 0, 0, 0) == getpid());
	CHECK(int80(4, 1, 0, 0) == 0);
	CHECK(int80(4, -1, 0, 0) == -EBADF);
	CHECK(int80(9999, 0, 0, 0) == -ENOSYS);
	CHECK(int80(64, 0, 0, 0) == getppid());
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	CHECK(low != MAP_FAILED);
	strcpy(low, "written by int 0x80\n");
	fflush(stdout);
	CHECK(int80(4, 1, (long)low, strlen(low)) == (long)strlen(low));
	if ((sig = sigsetjmp(back, 1)) == 0)
		__asm__ volatile("sysenter" ::: "memory", "rax", "rcx", "rdx");
	printf("sysenter: signal %d\n", sig);
	if ((sig = sigsetjmp(back, 1)) == 0)
		__asm__ volatile("int $0x81");
	printf("int 0x81: signal %d trap %d\n", sig, trapno);
	if ((sig = sigsetjmp(back, 1)) == 0)
		__asm__ volatile("int $3");
	printf("int 3: signal %d trap %d\n", sig, trapno);
	if ((sig = sigsetjmp(back, 1)) == 0)
		__asm__ volatile(".byte 0xf1"); // int1
	printf("int1: signal %d trap %d\n", sig, trapno);
	// Numbers outside of the table.
	CHECK(syscall(100000) == -1 && errno == ENOSYS);
	CHECK(syscall(-5) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_getpid | 0x40000000) == -1 && errno == ENOSYS); // x32
	CHECK(syscall(0x100000000L | SYS_getpid) == getpid() || errno == ENOSYS);

	// Programs with set-user-ID and set-group-ID bits, owned by the user himself: nothing to gain.
	char path[PATH_MAX], buf[1 << 16];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	CHECK(n > 0);
	path[n] = 0;
	int in = open(path, O_RDONLY), out = open("setuid", O_CREAT | O_WRONLY | O_TRUNC, 0755), status;
	while ((n = read(in, buf, sizeof buf)) > 0)
		CHECK(write(out, buf, n) == n);
	close(out);
	CHECK(chmod("setuid", 06755) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		execl("./setuid", "setuid", "x", NULL);
		_exit(99);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("set-user-ID", status);
	unlink("setuid");
	DONE();
}
