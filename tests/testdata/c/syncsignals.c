// The signals of faults, when processes send them while they are blocked: they are pending like any other, come out of all
// that waits for signals, and interrupt nothing.
#include "guest.h"
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
static volatile int calls, code, from, value;
static volatile pthread_t in_thread;

static void on(int sig, siginfo_t *si, void *ctx)
{
	(void)ctx;
	code = si->si_code;
	from = si->si_pid == getpid();
	value = si->si_value.sival_int;
	in_thread = pthread_self();
	calls += sig;
}

static sigset_t only(int sig)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, sig);
	return s;
}

static int is_pending(int sig)
{
	sigset_t s;
	CHECK(sigpending(&s) == 0);
	return sigismember(&s, sig);
}

// came checks that the handler has been called once for a signal, since the last time.
static void came(int sig, int with)
{
	CHECK(calls == sig && code == with && from && !is_pending(sig));
	calls = 0;
}

// later sends a signal to the caller in a while, from another process.
static pid_t later(int sig, int ms)
{
	pid_t to = getpid(), pid = fork();
	if (pid == 0) {
		usleep(ms * 1000);
		_exit(kill(to, sig) != 0);
	}
	return pid;
}

static void reap(pid_t pid)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

// at_once has everything find a signal that is pending already.
static void at_once(int sig)
{
	sigset_t set = only(sig), none, old;
	siginfo_t si;
	struct signalfd_siginfo fdsi;
	struct timespec zero = {0, 0}, long_time = {20, 0};
	struct epoll_event ev = {.events = EPOLLIN};

	sigemptyset(&none);
	CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
	int sfd = signalfd(-1, &set, SFD_NONBLOCK), ep = epoll_create1(0);
	CHECK(sfd >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, sfd, &ev) == 0);
	struct pollfd p = {sfd, POLLIN, 0};
	CHECK(read(sfd, &fdsi, sizeof fdsi) == -1 && errno == EAGAIN);
	CHECK(poll(&p, 1, 0) == 0);
	CHECK(sigtimedwait(&set, &si, &zero) == -1 && errno == EAGAIN);

	// Pending once, whoever sends it how often.
	CHECK(kill(getpid(), sig) == 0 && is_pending(sig));
	CHECK(kill(getpid(), sig) == 0 && calls == 0);
	CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
	CHECK(epoll_wait(ep, &ev, 1, 0) == 1);
	CHECK(read(sfd, &fdsi, sizeof fdsi) == sizeof fdsi && fdsi.ssi_signo == (unsigned)sig && fdsi.ssi_code == SI_USER && fdsi.ssi_pid == (unsigned)getpid());
	CHECK(!is_pending(sig) && read(sfd, &fdsi, sizeof fdsi) == -1 && errno == EAGAIN);

	union sigval v = {.sival_int = 77};
	CHECK(sigqueue(getpid(), sig, v) == 0 && is_pending(sig));
	CHECK(sigwaitinfo(&set, &si) == sig && si.si_code == SI_QUEUE && si.si_value.sival_int == 77 && !is_pending(sig));
	raise(sig);
	CHECK(sigtimedwait(&set, &si, &long_time) == sig && calls == 0); // the C library hides SI_TKILL
	CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, sfd, NULL) == 0);

	// Masks that let it through.
	raise(sig);
	CHECK(sigsuspend(&none) == -1 && errno == EINTR);
	came(sig, SI_TKILL);
	CHECK(kill(getpid(), sig) == 0 && ppoll(NULL, 0, &long_time, &none) == -1 && errno == EINTR);
	came(sig, SI_USER);
	CHECK(kill(getpid(), sig) == 0 && pselect(0, NULL, NULL, NULL, &long_time, &none) == -1 && errno == EINTR);
	came(sig, SI_USER);
	CHECK(sigqueue(getpid(), sig, v) == 0 && epoll_pwait(ep, &ev, 1, 20000, &none) == -1 && errno == EINTR && value == 77);
	came(sig, SI_QUEUE);
	// A mask that does not, and one of another signal.
	raise(sig);
	zero.tv_nsec = 1000000;
	CHECK(ppoll(NULL, 0, &zero, &set) == 0 && calls == 0 && is_pending(sig));
	raise(SIGUSR1);
	came(SIGUSR1, SI_TKILL);
	CHECK(is_pending(sig));
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
	came(sig, SI_TKILL);
	close(sfd);
	close(ep);
}

// sleeping has everything wait for a signal that is sent then.
static void sleeping(int sig)
{
	sigset_t set = only(sig), none, old;
	siginfo_t si;
	struct signalfd_siginfo fdsi;
	struct timespec ts = {0, 60000000};
	pid_t pid;

	sigemptyset(&none);
	CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
	int sfd = signalfd(-1, &set, 0);
	struct pollfd p = {sfd, POLLIN, 0};
	pid = later(sig, 10);
	CHECK(poll(&p, 1, 20000) == 1 && is_pending(sig));
	reap(pid);
	CHECK(read(sfd, &fdsi, sizeof fdsi) == sizeof fdsi && fdsi.ssi_pid == (unsigned)pid);
	pid = later(sig, 10);
	CHECK(read(sfd, &fdsi, sizeof fdsi) == sizeof fdsi && fdsi.ssi_signo == (unsigned)sig && fdsi.ssi_pid == (unsigned)pid);
	reap(pid);
	pid = later(sig, 10);
	CHECK(sigwaitinfo(&set, &si) == sig && si.si_pid == pid && si.si_code == SI_USER);
	reap(pid);
	// What does not wait for it does not see it.
	pid = later(sig, 10);
	CHECK(nanosleep(&ts, NULL) == 0);
	reap(pid); // which may have slept for longer, on a busy machine
	CHECK(is_pending(sig));
	CHECK(sigwaitinfo(&set, &si) == sig);
	pid = later(sig, 10);
	CHECK(poll(NULL, 0, 60) == 0);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && calls == 0);
	CHECK(sigsuspend(&none) == -1 && errno == EINTR && calls == sig);
	calls = 0;
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
	// Nor does what is ignored interrupt anything.
	struct sigaction sa = {.sa_handler = SIG_IGN}, was;
	CHECK(sigaction(sig, &sa, &was) == 0);
	pid = later(sig, 10);
	CHECK(nanosleep(&ts, NULL) == 0 && poll(NULL, 0, 0) == 0);
	reap(pid);
	CHECK(sigaction(sig, &was, NULL) == 0 && calls == 0);
	close(sfd);
}

static sem_t ready, done;
static void *other(void *arg)
{
	sigset_t none;
	sigemptyset(&none);
	CHECK(pthread_sigmask(SIG_SETMASK, &none, NULL) == 0);
	sem_post(&ready);
	while (sem_wait(&done) != 0)
		CHECK(errno == EINTR);
	return arg;
}

// threads has a signal of the process go to the thread that does not block it.
static void threads(int sig)
{
	sigset_t set = only(sig);
	pthread_t t;
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(pthread_create(&t, NULL, other, NULL) == 0);
	sem_wait(&ready);
	CHECK(kill(getpid(), sig) == 0);
	for (int i = 0; calls == 0 && i < 10000; i++)
		usleep(1000);
	CHECK(in_thread == t);
	came(sig, SI_USER);
	sem_post(&done);
	CHECK(pthread_join(t, NULL) == 0);
	CHECK(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0 && calls == 0);
}

int main(int argc, char **argv)
{
	sigset_t s;
	int status;

	if (argc > 1) {
		for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
			printf("%d", is_pending(signals[i]));
		printf(" after execve\n");
		s = only(SIGTRAP);
		CHECK(sigwaitinfo(&s, NULL) == SIGTRAP);
		return failures;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGUSR1, &sa, NULL) == 0 && sem_init(&ready, 0, 0) == 0 && sem_init(&done, 0, 0) == 0);
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
		int sig = signals[i];
		// With and without SA_RESTART: what is blocked interrupts nothing either way.
		sa.sa_flags = SA_SIGINFO | (i % 2 ? SA_RESTART : 0);
		CHECK(sigaction(sig, &sa, NULL) == 0);
		at_once(sig);
		if (i < 3)
			sleeping(sig);
		threads(sig);
		printf("signal %d\n", sig);
	}
	// Pending signals stay over an execve, and kill when they are let through.
	for (int how = 0; how < 2; how++) {
		pid_t pid = fork();
		if (pid == 0) {
			sigfillset(&s);
			sigprocmask(SIG_SETMASK, &s, NULL);
			if (how == 0) {
				raise(SIGTRAP);
				raise(SIGBUS);
				execl("/proc/self/exe", argv[0], "x", NULL);
			}
			signal(SIGSEGV, SIG_DFL);
			kill(getpid(), SIGSEGV);
			sigemptyset(&s);
			sigsuspend(&s);
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		print_status(how ? "sigsuspend" : "execve", status);
	}
	DONE();
}
