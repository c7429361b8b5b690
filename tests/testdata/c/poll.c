// Waiting for descriptors: poll, select, epoll, eventfd, timerfd, signalfd,
// sockets, and calls that block in one thread while others go on.
#include "guest.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>

static void *writer(void *arg)
{
	usleep(30000);
	CHECK(write((int)(intptr_t)arg, "x", 1) == 1);
	return NULL;
}

static pthread_t later(int fd)
{
	pthread_t t;
	CHECK(pthread_create(&t, NULL, writer, (void *)(intptr_t)fd) == 0);
	return t;
}

int main(void)
{
	int p[2];
	char buf[100];

	CHECK(pipe(p) == 0);
	struct pollfd pf = {.fd = p[0], .events = POLLIN};
	CHECK(poll(&pf, 1, 10) == 0);
	pthread_t t = later(p[1]);
	CHECK(poll(&pf, 1, 10000) == 1 && pf.revents == POLLIN);
	CHECK(pthread_join(t, NULL) == 0 && read(p[0], buf, 100) == 1);
	t = later(p[1]);
	fd_set fds;
	FD_ZERO(&fds);
	FD_SET(p[0], &fds);
	struct timeval tv = {10, 0};
	CHECK(select(p[0] + 1, &fds, NULL, NULL, &tv) == 1);
#ifdef __GLIBC__
	// The kernel writes what is left of the time.
	CHECK(tv.tv_sec == 9);
#endif
	CHECK(pthread_join(t, NULL) == 0);
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0x123456789abcdef}, got;
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev) == 0);
	CHECK(epoll_wait(ep, &got, 1, -1) == 1 && got.data.u64 == 0x123456789abcdef);
	CHECK(read(p[0], buf, 100) == 1);
	t = later(p[1]);
	CHECK(epoll_wait(ep, &got, 1, 10000) == 1);
	CHECK(pthread_join(t, NULL) == 0);

	int e = eventfd(3, EFD_NONBLOCK);
	uint64_t v;
	CHECK(read(e, &v, 8) == 8 && v == 3);
	CHECK(read(e, &v, 8) == -1 && errno == EAGAIN);
	int tf = timerfd_create(CLOCK_MONOTONIC, 0);
	struct itimerspec its = {.it_value.tv_nsec = 5000000, .it_interval.tv_nsec = 5000000};
	CHECK(timerfd_settime(tf, 0, &its, NULL) == 0);
	for (int i = 0; i < 3; i++)
		CHECK(read(tf, &v, 8) == 8 && v >= 1);
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
	int sf = signalfd(-1, &mask, 0);
	struct signalfd_siginfo si;
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK(read(sf, &si, sizeof si) == sizeof si && si.ssi_signo == SIGUSR1 && (int)si.ssi_pid == getpid());

	// Sockets, with a descriptor passed along.
	int s[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		char control[CMSG_SPACE(sizeof(int))];
		struct iovec iov = {buf, sizeof buf};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		CHECK(recvmsg(s[1], &m, 0) == 5);
		int fd = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&m));
		CHECK(write(fd, "passed", 6) == 6);
		_exit(failures);
	}
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov[2] = {{"he", 2}, {"llo", 3}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(c) = p[1];
	CHECK(read(p[0], buf, 100) == 1);
	CHECK(sendmsg(s[0], &m, 0) == 5);
	CHECK(read(p[0], buf, 100) == 6 && !memcmp(buf, "passed", 6));
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	close(s[1]);
	CHECK(send(s[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);

	// The lowest free descriptor is taken; close_range and dup2 do as they say.
	int a = open("/dev/null", O_RDONLY), b = open("/dev/null", O_RDONLY);
	CHECK(b == a + 1 && close(a) == 0 && dup(b) == a);
	CHECK(dup2(b, 200) == 200 && fcntl(200, F_GETFD) == 0);
#ifdef SYS_close_range
	CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
	CHECK(fcntl(200, F_GETFD) == -1 && errno == EBADF);
	CHECK(open("/dev/null", O_RDONLY) == 3);
#endif
	CHECK(close(999) == -1 && errno == EBADF);
	DONE();
}
