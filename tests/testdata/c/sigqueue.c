// Queued signals: order and values of real-time signals that arrive while the
// program computes and makes system calls, timers, signals that look like
// faults, signals of faults that processes send, waiting for them.
#include "guest.h"
#include <poll.h>
#include <pthread.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <ucontext.h>

static void set(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags};
	CHECK(sigaction(sig, &sa, NULL) == 0);
}

// ----- order

static volatile int next_value, disorder, from;

static void on_rt(int sig, siginfo_t *si, void *ctx)
{
	(void)ctx;
	if (si->si_value.sival_int != next_value || si->si_code != SI_QUEUE || si->si_pid != from || si->si_signo != sig)
		disorder++;
	next_value = si->si_value.sival_int + 1;
}

static void nothing(int sig, siginfo_t *si, void *ctx) { (void)sig; (void)si; (void)ctx; }

static void *idle(void *arg) { return arg; }

// queue_thread queues a value to the first thread of a process.
static long queue_thread(pid_t pid, int sig, int value)
{
	siginfo_t si = {.si_signo = sig, .si_code = SI_QUEUE};
	si.si_pid = getpid();
	si.si_value.sival_int = value;
	return syscall(SYS_rt_tgsigqueueinfo, pid, pid, sig, &si);
}

// Values are queued to a child which does what takes it into the kernel and out
// of translated code in many ways. It is stopped meanwhile, so that there is
// more than one at a time.
static void order(int count)
{
	const int burst = 5;
	pid_t pid;

	from = getpid();
	if ((pid = fork()) == 0) {
		sigset_t rt, old;
		sigemptyset(&rt);
		sigaddset(&rt, SIGRTMIN + 3);
		volatile uint64_t sum = 0;
		for (int i = 0; next_value < count && !disorder; i++) {
			struct sigaction sa;
			switch (i % 10) {
			default: // handled by the supervisor
				sigaction(SIGUSR1, NULL, &sa);
				break;
			case 1:
				mprotect((void *)((uintptr_t)&disorder & -4096), 4096, PROT_READ | PROT_WRITE);
				break;
			case 2:
				sigprocmask(SIG_BLOCK, &rt, &old);
				sum += i;
				sigprocmask(SIG_SETMASK, &old, NULL);
				break;
			case 3:
				poll(NULL, 0, 1);
				break;
			case 4:
				for (int k = 0; k < 1000; k++)
					sum += k;
				break;
			case 5: // in a handler
				raise(SIGUSR1);
				break;
			case 6: { // in another process
				pid_t pid = fork();
				if (pid == 0)
					_exit(0);
				while (waitpid(pid, NULL, 0) == -1 && errno == EINTR)
					;
				break;
			}
			case 7: { // in another thread, which blocks the signal
				pthread_t t;
				pthread_attr_t attr;
				sigset_t all;
				sigfillset(&all);
				CHECK(pthread_attr_init(&attr) == 0 && pthread_attr_setsigmask_np(&attr, &all) == 0);
				CHECK(pthread_create(&t, &attr, idle, NULL) == 0 && pthread_join(t, NULL) == 0);
				break;
			}
			case 8: // in an execve that fails
				CHECK(execl("/nowhere", "x", NULL) == -1);
				break;
			}
		}
		_exit(disorder);
	}
	int status;
	for (int i = 0; i < count; i += burst) {
		usleep(100);
		kill(pid, SIGSTOP);
		CHECK(waitpid(pid, &status, WUNTRACED) == pid);
		if (!WIFSTOPPED(status)) {
			print_status("order", status);
			return;
		}
		for (int k = 0; k < burst; k++)
			CHECK(queue_thread(pid, SIGRTMIN + 3, i + k) == 0);
		kill(pid, SIGCONT);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	print_status("order", status);
}

// ----- what is pending when it is unblocked

static char log_text[200];
static void on_log(int sig, siginfo_t *si, void *ctx)
{
	(void)ctx;
	sprintf(log_text + strlen(log_text), " %d:%d", sig - SIGRTMIN, si->si_value.sival_int);
}

static void several(void)
{
	sigset_t s, old;
	sigfillset(&s);
	CHECK(sigprocmask(SIG_SETMASK, &s, &old) == 0);
	for (int i = 5; i >= 3; i--) {
		set(SIGRTMIN + i, on_log, 0);
		for (int k = 0; k < 3; k++)
			CHECK(sigqueue(getpid(), SIGRTMIN + i, (union sigval){.sival_int = k}) == 0);
	}
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
	printf("several:%s\n", log_text);
	log_text[0] = 0;
	CHECK(sigprocmask(SIG_SETMASK, &s, &old) == 0);
	for (int i = 0; i < 3; i++)
		CHECK(sigqueue(getpid(), SIGRTMIN + 4, (union sigval){.sival_int = i}) == 0);
	siginfo_t si;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 4);
	CHECK(sigwaitinfo(&s, &si) == SIGRTMIN + 4 && si.si_value.sival_int == 0 && si.si_code == SI_QUEUE);
	int fd = signalfd(-1, &s, 0);
	struct signalfd_siginfo fsi;
	CHECK(read(fd, &fsi, sizeof fsi) == sizeof fsi && fsi.ssi_int == 1);
	CHECK(close(fd) == 0);
	sigset_t wait = old;
	CHECK(sigsuspend(&wait) == -1 && errno == EINTR);
	printf("suspended:%s\n", log_text);
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
}

// ----- timers

static volatile int ticks, overrun, timer_value;
static timer_t timer;
static void on_timer(int sig, siginfo_t *si, void *ctx)
{
	(void)sig;
	(void)ctx;
	ticks++;
	if (si->si_code != SI_TIMER || si->si_overrun < 0)
		disorder++;
	overrun += timer_getoverrun(timer);
	timer_value = si->si_value.sival_int;
}

static void timers(void)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 6, .sigev_value.sival_int = 4711};
	struct itimerspec its = {.it_value.tv_nsec = 1000000, .it_interval.tv_nsec = 100000}, off = {0};
	sigset_t s, old;

	set(SIGRTMIN + 6, on_timer, 0);
	CHECK(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0);
	CHECK(timer_settime(timer, 0, &its, NULL) == 0);
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 6);
	while (ticks + overrun < 200) {
		sigprocmask(SIG_BLOCK, &s, &old);
		usleep(500);
		sigprocmask(SIG_SETMASK, &old, NULL);
	}
	CHECK(timer_settime(timer, 0, &off, NULL) == 0);
	CHECK(timer_delete(timer) == 0);
	printf("timer: value %d ticks %d overrun %d disorder %d\n", timer_value, ticks > 0, overrun > 0, disorder);
}

// ----- signals of faults, and siginfos that look like faults

static volatile int seen, seen_code, seen_pid;
static volatile uintptr_t seen_addr;
static void on_seen(int sig, siginfo_t *si, void *ctx)
{
	(void)sig;
	(void)ctx;
	seen++;
	seen_code = si->si_code;
	seen_pid = si->si_pid;
	seen_addr = (uintptr_t)si->si_addr;
}

static void report(const char *what) { printf("%s: seen %d code %d pid %d\n", what, seen, seen_code, seen_pid == getpid()); seen = seen_code = 0; }

static long requeue(int sig, int code, void *addr)
{
	siginfo_t si = {.si_signo = sig, .si_code = code};
	si.si_addr = addr;
	return syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), sig, &si);
}

static char page[4096] __attribute__((aligned(4096))) = {1};

static void alike(void)
{
	const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
	const int codes[] = {1, 2, 3, 4, SI_KERNEL, SI_USER, SI_TKILL, SI_QUEUE, -0x7876, -77};
	sigset_t s, old, pending;
	int total = 0;

	for (int i = 0; i < 6; i++) {
		set(faults[i], on_seen, 0);
		kill(getpid(), faults[i]);
		report("kill");
		raise(faults[i]);
		report("raise");
		for (int k = 0; k < 10; k++) {
			CHECK(requeue(faults[i], codes[k], page) == 0);
			CHECK(seen == 1 && seen_code == codes[k] && (seen_addr & ~0xffful) == ((uintptr_t)page & ~0xffful));
			total += seen;
			seen = 0;
		}
		// Blocked they stay pending, and can be taken.
		sigemptyset(&s);
		sigaddset(&s, faults[i]);
		CHECK(sigprocmask(SIG_BLOCK, &s, &old) == 0);
		raise(faults[i]);
		CHECK(seen == 0 && sigpending(&pending) == 0 && sigismember(&pending, faults[i]));
		siginfo_t si;
		struct timespec none = {0, 0};
		CHECK(sigtimedwait(&s, &si, &none) == faults[i] && si.si_code == SI_USER);
		CHECK(sigtimedwait(&s, &si, &none) == -1 && errno == EAGAIN);
		CHECK(requeue(faults[i], 1, page) == 0);
		CHECK(seen == 0);
		CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
		CHECK(seen == 1);
		seen = 0;
		// Ignored ones do nothing.
		signal(faults[i], SIG_IGN);
		raise(faults[i]);
		requeue(faults[i], 1, page);
		CHECK(seen == 0);
		signal(faults[i], SIG_DFL);
	}
	printf("alike %d\n", total);
	// A page that holds code which has run, written to by a made-up fault.
	char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(code != MAP_FAILED);
	memcpy(code, "\xb8\x2a\0\0\0\xc3", 6);
	CHECK(((int (*)(void))code)() == 42);
	set(SIGSEGV, on_seen, 0);
	CHECK(requeue(SIGSEGV, SEGV_ACCERR, code) == 0 && seen == 1);
	seen = 0;
	// Handlers and system calls with their arguments in that page.
	CHECK(sigprocmask(SIG_BLOCK, NULL, (sigset_t *)(code + 64)) == 0);
	CHECK(((int (*)(void))code)() == 42);
	stack_t ss = {.ss_sp = code + 128, .ss_size = 4096 - 128};
	CHECK(sigaltstack(&ss, (stack_t *)(code + 32)) == 0);
	set(SIGUSR1, nothing, SA_ONSTACK);
	for (int i = 0; i < 3; i++) {
		CHECK(((int (*)(void))code)() == 42);
		raise(SIGUSR1);
	}
	ss.ss_flags = SS_DISABLE;
	CHECK(sigaltstack(&ss, NULL) == 0);
	// rt_sigprocmask with memory that is not there.
	CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8l, NULL, 8) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, 8l, 8) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_rt_sigprocmask, 3, &s, NULL, 8) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_rt_sigprocmask, 3, NULL, &s, 8) == 0);
	CHECK(syscall(SYS_rt_sigprocmask, 0, &s, NULL, 4) == -1 && errno == EINVAL);
	sigfillset(&s);
	CHECK(sigprocmask(SIG_SETMASK, &s, NULL) == 0 && sigprocmask(SIG_SETMASK, NULL, &s) == 0);
	CHECK(!sigismember(&s, SIGKILL) && !sigismember(&s, SIGSTOP) && sigismember(&s, SIGSEGV) && sigismember(&s, SIGHUP));
	sigset_t same = s;
	CHECK(syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &same, &same, 8) == 0 && !memcmp(&same, &s, 8));
	CHECK(sigprocmask(SIG_BLOCK, NULL, &s) == 0);
	printf("mask %lx\n", *(long *)&s);
}

// ----- default actions that are set while the signal is on its way

static void *flipper(void *arg)
{
	for (int i = 0; i < *(int *)arg; i++) {
		set(SIGCHLD, nothing, SA_RESTART);
		signal(SIGCHLD, SIG_DFL);
		set(SIGURG, nothing, SA_RESTART);
		signal(SIGURG, SIG_DFL);
	}
	return NULL;
}

static void defaults(int count)
{
	pthread_t t;
	CHECK(pthread_create(&t, NULL, flipper, &count) == 0);
	for (int i = 0; i < 5 * count; i++) {
		kill(getpid(), SIGCHLD);
		raise(SIGURG);
	}
	CHECK(pthread_join(t, NULL) == 0);
	printf("defaults\n");
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	set(SIGUSR1, nothing, SA_RESTART);
	set(SIGRTMIN + 3, on_rt, 0);
	order(1000);
	several();
	timers();
	alike();
	defaults(300);
	DONE();
}
