// A program that confines itself: every action of a filter, what a filter
// sees, filters on filters, inheritance, threads, and the strict mode.
#include "guest.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <ucontext.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define ON(nr, v) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), RET(v)

static long install(struct sock_filter *code, unsigned n, unsigned flags)
{
	struct sock_fprog prog = {n, code};
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
}

#define INSTALL(flags, ...)                                                    \
	({                                                                     \
		struct sock_filter code[] = {__VA_ARGS__};                     \
		install(code, sizeof code / sizeof *code, flags);              \
	})

static siginfo_t info;
static long long info_rip, info_rax;

static void on_sys(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	(void)sig;
	info = *si;
	info_rip = uc->uc_mcontext.gregs[REG_RIP];
	info_rax = uc->uc_mcontext.gregs[REG_RAX];
	uc->uc_mcontext.gregs[REG_RAX] = 4711;
}

// in_child runs f in a process that may install filters.
static void in_child(const char *what, void (*f)(void))
{
	int status;
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
		f();
		fflush(stdout);
		_exit(failures ? 1 : 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status(what, status);
}

static void actions(void)
{
	CHECK(prctl(PR_GET_SECCOMP) == 0);
	long r = INSTALL(0, LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), RET(SECCOMP_RET_KILL_PROCESS), LOAD(nr),
		ON(SYS_getppid, SECCOMP_RET_ERRNO | 77), ON(SYS_getpgid, SECCOMP_RET_ERRNO), ON(SYS_getsid, SECCOMP_RET_ERRNO | 0xffff),
		ON(SYS_sched_yield, SECCOMP_RET_TRACE | 1), ON(SYS_sync, SECCOMP_RET_USER_NOTIF), ON(SYS_getuid, SECCOMP_RET_LOG),
		ON(SYS_getgid, SECCOMP_RET_TRAP | 123), ON(SYS_rt_sigprocmask, SECCOMP_RET_ERRNO | 55), ON(SYS_mprotect, SECCOMP_RET_ERRNO | 56),
		ON(SYS_clone, SECCOMP_RET_ERRNO | 57), ON(SYS_clone3, SECCOMP_RET_ERRNO | 57), ON(100000, SECCOMP_RET_ERRNO | 58),
		RET(SECCOMP_RET_ALLOW));
	CHECK(r == 0);
	CHECK(prctl(PR_GET_SECCOMP) == 2);
	CHECK(syscall(SYS_getppid) == -1 && errno == 77);
	CHECK(syscall(SYS_getpgid, 0) == 0);
	CHECK(syscall(SYS_getsid, 0) == -4095 || errno == 4095);
	CHECK(syscall(SYS_sched_yield) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_sync) == -1 && errno == ENOSYS);
	CHECK(getuid() == syscall(SYS_geteuid));
	CHECK(syscall(SYS_rt_sigprocmask, 0, NULL, NULL, 8) == -1 && errno == 55);
	CHECK(mprotect(stdout, 1, 0) == -1 && errno == 56);
	CHECK(fork() == -1 && errno == 57);
	CHECK(syscall(100000) == -1 && errno == 58);
	// A trap gives the state behind the call, with its number in rax.
	struct sigaction sa = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGSYS, &sa, NULL) == 0);
	long result, after;
	__asm__ volatile("lea 1f(%%rip), %1\n\tsyscall\n1:" : "=a"(result), "=&r"(after) : "0"(SYS_getgid) : "rcx", "r11", "memory");
	CHECK(result == 4711 && info_rax == SYS_getgid && info_rip == after);
	CHECK(info.si_signo == SIGSYS && info.si_code == 1 && info.si_errno == 123 && info.si_syscall == SYS_getgid);
	CHECK(info.si_arch == AUDIT_ARCH_X86_64 && (long)info.si_call_addr == after);
	// A filter on top: the more restrictive action counts, and of equal ones the newer.
	CHECK(INSTALL(0, LOAD(nr), ON(SYS_getppid, SECCOMP_RET_ERRNO | 78), ON(SYS_getuid, SECCOMP_RET_ALLOW), ON(SYS_sched_yield, SECCOMP_RET_ERRNO | 79),
		ON(SYS_getgid, SECCOMP_RET_ERRNO | 80), RET(SECCOMP_RET_ALLOW)) == 0);
	CHECK(syscall(SYS_getppid) == -1 && errno == 78);
	CHECK(syscall(SYS_sched_yield) == -1 && errno == 79);
	CHECK(syscall(SYS_getgid) == 4711);
	signal(SIGSYS, SIG_IGN);
	syscall(SYS_getgid);
	printf("not reached\n");
}

static void arguments(void)
{
	// The third argument of lseek is the only one of 7, in its low half; the high half of the second is 5.
	CHECK(INSTALL(0, LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_lseek, 1, 0), RET(SECCOMP_RET_ALLOW), LOAD(args[2]),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 7, 0, 1), RET(SECCOMP_RET_ERRNO | 33),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1]) + 4), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 1),
		RET(SECCOMP_RET_ERRNO | 34), RET(SECCOMP_RET_ALLOW)) == 0);
	CHECK(syscall(SYS_lseek, -1, 0L, 7) == -1 && errno == 33);
	CHECK(syscall(SYS_lseek, -1, 5L << 32, 1) == -1 && errno == 34);
	CHECK(syscall(SYS_lseek, -1, 0L, 1) == -1 && errno == EBADF);
}

static void entry32(void)
{
	long r;
	CHECK(INSTALL(0, LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_I386, 0, 3), LOAD(nr), ON(20, SECCOMP_RET_ERRNO | 90),
		RET(SECCOMP_RET_ALLOW)) == 0);
	__asm__ volatile("int $0x80" : "=a"(r) : "0"(20) : "memory", "r8", "r9", "r10", "r11");
	CHECK(r == -90 && syscall(SYS_writev, -1, NULL, 0) == -1 && errno == EBADF); // 20 of the other table
}

static void killed(void)
{
	INSTALL(0, LOAD(nr), ON(SYS_getppid, SECCOMP_RET_KILL_PROCESS), RET(SECCOMP_RET_ALLOW));
	syscall(SYS_getppid);
}

static void killed_alone(void)
{
	INSTALL(0, LOAD(nr), ON(SYS_getppid, SECCOMP_RET_KILL_THREAD), RET(SECCOMP_RET_ALLOW));
	signal(SIGSYS, SIG_IGN);
	syscall(SYS_getppid);
}

static void unknown_action(void)
{
	INSTALL(0, LOAD(nr), ON(SYS_getppid, 0x12340000), RET(SECCOMP_RET_ALLOW));
	syscall(SYS_getppid);
}

static void trapped_without_handler(void)
{
	INSTALL(0, LOAD(nr), ON(SYS_getppid, SECCOMP_RET_TRAP), RET(SECCOMP_RET_ALLOW));
	syscall(SYS_getppid);
}

static volatile int reached;

static void *dies(void *arg)
{
	INSTALL(0, LOAD(nr), ON(SYS_getppid, SECCOMP_RET_KILL_THREAD), RET(SECCOMP_RET_ALLOW));
	reached = 1;
	syscall(SYS_getppid);
	reached = 2;
	return arg;
}

static void killed_thread(void)
{
	pthread_t t;
	CHECK(pthread_create(&t, NULL, dies, NULL) == 0);
	CHECK(pthread_join(t, NULL) == 0); // the kernel clears its id as for any end
	CHECK(reached == 1 && syscall(SYS_getppid) > 0);
}

static pthread_barrier_t meet;
static int ids[4];

static void *member(void *arg)
{
	long i = (intptr_t)arg;
	ids[i] = syscall(SYS_gettid);
	if (i == 3)
		INSTALL(0, LOAD(nr), ON(SYS_getpgrp, SECCOMP_RET_ERRNO | 40), RET(SECCOMP_RET_ALLOW));
	pthread_barrier_wait(&meet);
	pthread_barrier_wait(&meet);
	int all = syscall(SYS_getppid) == -1 && errno == 41;
	CHECK(all == (i == 3 ? 0 : reached));
	pthread_barrier_wait(&meet);
	return arg;
}

static void synchronized(int members)
{
	pthread_t t[4];
	reached = members == 3;
	pthread_barrier_init(&meet, NULL, members + 1);
	for (intptr_t i = 0; i < members; i++)
		CHECK(pthread_create(&t[i], NULL, member, (void *)i) == 0);
	pthread_barrier_wait(&meet);
	struct sock_filter code[] = {LOAD(nr), ON(SYS_getppid, SECCOMP_RET_ERRNO | 41), RET(SECCOMP_RET_ALLOW)};
	long r = install(code, 4, SECCOMP_FILTER_FLAG_TSYNC);
	CHECK(members == 3 ? r == 0 : r == ids[3]); // one of them has another filter
	if (members == 4)
		CHECK(install(code, 4, SECCOMP_FILTER_FLAG_TSYNC | (1 << 4)) == -1 && errno == ESRCH);
	pthread_barrier_wait(&meet);
	pthread_barrier_wait(&meet);
	for (int i = 0; i < members; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	CHECK((syscall(SYS_getppid) == -1) == (members == 3));
}

static void tsync(void) { synchronized(3); }
static void tsync_fails(void) { synchronized(4); }

static void *probe(void *arg)
{
	CHECK(syscall(SYS_getppid) == -1 && errno == 77);
	return arg;
}

static void inherited(void)
{
	int status;
	pthread_t t;
	CHECK(INSTALL(0, LOAD(nr), ON(SYS_getppid, SECCOMP_RET_ERRNO | 77), RET(SECCOMP_RET_ALLOW)) == 0);
	CHECK(pthread_create(&t, NULL, probe, NULL) == 0 && pthread_join(t, NULL) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		probe(NULL);
		execl("/proc/self/exe", "seccomp", "child", NULL);
		_exit(99);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("executed", status);
}

static void strict(void)
{
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
	CHECK(write(1, "still writes\n", 13) == 13);
	syscall(SYS_getpid);
	write(1, "not reached\n", 12);
}

static void strict_exit(void)
{
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL) == 0);
	syscall(SYS_exit, 7);
}

static void no_privilege(void)
{
	// in_child has set no_new_privs: another process without it and without privilege.
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	int more = SECCOMP_RET_LOG, none = 0x7ffb0000;
	CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &more) == 0);
	CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &none) == -1 && errno == EOPNOTSUPP);
	CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, NULL) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_seccomp, 99, 0, NULL) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) == -1 && errno == EFAULT);
	CHECK(INSTALL(1 << 20, RET(SECCOMP_RET_ALLOW)) == -1 && errno == EINVAL);
	CHECK(install(NULL, 0, 0) == -1 && errno == EINVAL);
	CHECK(install(NULL, 3, 0) == -1 && errno == EINVAL);
	CHECK(install((void *)8, 3, 0) == -1 && errno == EFAULT);
	CHECK(INSTALL(0, LOAD(nr)) == -1 && errno == EINVAL);
	CHECK(INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), RET(0)) == -1 && errno == EINVAL);
	CHECK(INSTALL(0, BPF_STMT(BPF_LD | BPF_MEM, 1), RET(0)) == -1 && errno == EINVAL);
	CHECK(prctl(PR_SET_SECCOMP, 7, 0) == -1 && errno == EINVAL);
	CHECK(prctl(PR_GET_SECCOMP) == 0);
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1) {
		probe(NULL);
		return failures ? 1 : 12;
	}
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		if (getuid() == 0)
			CHECK(setgid(65534) == 0 && setuid(65534) == 0);
		CHECK(INSTALL(0, RET(SECCOMP_RET_ALLOW)) == -1 && errno == EACCES);
		_exit(failures ? 1 : 11);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("without privilege", status);
	in_child("arguments of the call", no_privilege);
	in_child("actions", actions);
	in_child("arguments", arguments);
	in_child("32-bit entry", entry32);
	in_child("killed", killed);
	in_child("killed alone", killed_alone);
	in_child("unknown action", unknown_action);
	in_child("trapped without handler", trapped_without_handler);
	in_child("killed thread", killed_thread);
	in_child("synchronized", tsync);
	in_child("cannot be synchronized", tsync_fails);
	in_child("inherited", inherited);
	in_child("strict", strict);
	in_child("strict, exit", strict_exit);
	DONE();
}
