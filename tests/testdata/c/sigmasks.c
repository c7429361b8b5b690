// Masks: which signals get through in calls that wait with a mask of their own,
// in which order handlers run, and what each saves; masks over fork, exec and in
// threads; what a handler does to the mask that it returns to.
#include "guest.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <ucontext.h>

static int depth;
static uint64_t bits(const sigset_t *s) { return *(const uint64_t *)s; }
static uint64_t now(void)
{
	sigset_t s;
	CHECK(sigprocmask(SIG_BLOCK, NULL, &s) == 0);
	return bits(&s);
}

static void on(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	(void)si;
	printf("  %*s%d: mask %lx saved %lx rax %d\n", 2 * depth, "", sig, now(), bits(&uc->uc_sigmask), (int)uc->uc_mcontext.gregs[REG_RAX] == -EINTR);
	depth++;
	if (sig == SIGHUP)
		raise(SIGUSR1);
	depth--;
	if (sig == SIGTERM)
		sigaddset(&uc->uc_sigmask, SIGURG);
	printf("  %*s%d ends\n", 2 * depth, "", sig);
}

static void set(int sig, int flags, int mask)
{
	struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | flags};
	if (mask)
		sigaddset(&sa.sa_mask, mask);
	CHECK(sigaction(sig, &sa, NULL) == 0);
}

static void waits(const char *what, int kind, int except)
{
	sigset_t all, old, mask;

	sigfillset(&all);
	CHECK(sigprocmask(SIG_SETMASK, &all, &old) == 0);
	raise(SIGUSR1);
	raise(SIGUSR2);
	raise(SIGHUP);
	raise(SIGTERM);
	printf("%s:\n", what);
	mask = old;
	if (except)
		sigaddset(&mask, except);
	struct timespec ts = {5, 0};
	int ep, r = 0;
	switch (kind) {
	case 0: r = sigsuspend(&mask); break;
	case 1: r = ppoll(NULL, 0, &ts, &mask); break;
	case 2: r = pselect(0, NULL, NULL, NULL, &ts, &mask); break;
	case 3: {
		struct epoll_event ev;
		ep = epoll_create1(0);
		r = epoll_pwait(ep, &ev, 1, 5000, &mask);
		close(ep);
	}
	}
	CHECK(r == -1 && errno == EINTR);
	printf("  after: %lx\n", now());
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("  unblocked %lx\n", now());
}

static void *thread(void *arg)
{
	(void)arg;
	printf("thread: %lx\n", now());
	return NULL;
}

int main(int argc, char **argv)
{
	sigset_t s;
	pthread_t t;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 1) {
		sigset_t pending;
		sigpending(&pending);
		printf("executed: %lx pending %lx\n", now(), bits(&pending));
		return 0;
	}
	set(SIGUSR1, 0, 0);
	set(SIGUSR2, 0, SIGUSR1);
	set(SIGHUP, SA_NODEFER, SIGTERM);
	set(SIGTERM, SA_RESTART, SIGHUP);
	waits("sigsuspend", 0, 0);
	waits("sigsuspend without USR2", 0, SIGUSR2);
	waits("ppoll", 1, 0);
	waits("ppoll without HUP", 1, SIGHUP);
	waits("pselect", 2, SIGUSR1);
	waits("epoll_pwait", 3, SIGTERM);
	// What the handler added to the mask it returns to.
	sigemptyset(&s);
	sigprocmask(SIG_SETMASK, &s, NULL);
	raise(SIGTERM);
	printf("after SIGTERM: %lx\n", now());
	sigemptyset(&s);
	sigaddset(&s, SIGSEGV);
	sigaddset(&s, SIGTRAP);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGRTMAX);
	sigprocmask(SIG_SETMASK, &s, NULL);
	CHECK(pthread_create(&t, NULL, thread, NULL) == 0 && pthread_join(t, NULL) == 0);
	raise(SIGUSR1);
	raise(SIGRTMAX);
	pid_t pid = fork();
	if (pid == 0) {
		sigpending(&s);
		printf("child: %lx pending %lx\n", now(), bits(&s));
		raise(SIGUSR1);
		execl("/proc/self/exe", argv[0], "x", (char *)NULL);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	sigpending(&s);
	printf("parent: %lx pending %lx\n", now(), bits(&s));
	DONE();
}
