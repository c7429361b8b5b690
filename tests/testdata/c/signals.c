// Signals that a program catches: asynchronous ones, SIGCHLD, timers, masks.
#include "guest.h"
#include <setjmp.h>
#include <sys/time.h>

static volatile sig_atomic_t count[65];
static volatile int last_code, last_value;

static void on(int sig, siginfo_t *si, void *uc)
{
	(void)uc;
	count[sig]++;
	last_code = si->si_code;
	last_value = si->si_value.sival_int;
}

static void catch(int sig, int flags)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | flags};
	CHECK(sigaction(sig, &sa, NULL) == 0);
}

int main(void)
{
	sigset_t set, old;

	catch(SIGUSR1, 0);
	raise(SIGUSR1);
	kill(getpid(), SIGUSR1);
	printf("usr1 %d code %d\n", count[SIGUSR1], last_code);

	// Blocked signals stay pending, and are merged.
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
	raise(SIGUSR1);
	raise(SIGUSR1);
	CHECK(count[SIGUSR1] == 2);
	CHECK(sigpending(&set) == 0 && sigismember(&set, SIGUSR1));
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
	printf("after unblock %d\n", count[SIGUSR1]);

	// Real-time signals queue, with their values in order.
	catch(SIGRTMIN + 1, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, &old);
	for (int i = 1; i <= 5; i++)
		CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i * 11}) == 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("rt %d value %d code %d\n", count[SIGRTMIN + 1], last_value, last_code);

	// SIGCHLD with its child's status.
	catch(SIGCHLD, SA_RESTART);
	pid_t pid = fork();
	if (pid == 0)
		_exit(3);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	printf("chld %d status %d\n", count[SIGCHLD], WEXITSTATUS(status));

	// A timer interrupts a loop without calls, then a system call.
	catch(SIGALRM, 0);
	struct itimerval it = {.it_value.tv_usec = 20000};
	CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
	while (!count[SIGALRM])
		;
	// From here on it repeats: the first signal may come before the system call.
	const struct itimerval off = {0};
	it.it_interval = it.it_value;
	CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
	CHECK(pause() == -1 && errno == EINTR);
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	printf("alrm %d\n", count[SIGALRM] > 1);

	// Without SA_RESTART a read is interrupted, with it it goes on.
	int fds[2];
	char c;
	CHECK(pipe(fds) == 0);
	CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
	CHECK(read(fds[0], &c, 1) == -1 && errno == EINTR);
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	catch(SIGALRM, SA_RESTART);
	if ((pid = fork()) == 0) {
		usleep(200000);
		CHECK(write(fds[1], "x", 1) == 1);
		_exit(0);
	}
	CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
	CHECK(read(fds[0], &c, 1) == 1 && c == 'x');
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
	printf("alrm %d\n", count[SIGALRM] > 3);

	// SIGPIPE: caught, then ignored.
	catch(SIGPIPE, 0);
	close(fds[0]);
	CHECK(write(fds[1], "x", 1) == -1 && errno == EPIPE);
	printf("pipe %d\n", count[SIGPIPE]);
	signal(SIGPIPE, SIG_IGN);
	CHECK(write(fds[1], "x", 1) == -1 && errno == EPIPE);
	printf("pipe %d\n", count[SIGPIPE]);

	// SA_RESETHAND and the old action.
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESETHAND}, was;
	CHECK(sigaction(SIGUSR2, &sa, NULL) == 0);
	raise(SIGUSR2);
	CHECK(sigaction(SIGUSR2, NULL, &was) == 0 && was.sa_handler == SIG_DFL);
	CHECK(sigaction(SIGUSR1, NULL, &was) == 0 && was.sa_sigaction == on);
	CHECK((was.sa_flags & SA_SIGINFO) != 0);
	printf("usr2 %d\n", count[SIGUSR2]);

	// sigwaitinfo takes a signal without a handler.
	siginfo_t si;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR2);
	CHECK(sigwaitinfo(&set, &si) == SIGUSR2 && si.si_pid == getpid());
	DONE();
}
