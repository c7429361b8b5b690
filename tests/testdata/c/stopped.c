// A process that is stopped while its parent, with which it shares the translations, needs new ones: no signal that is sent to
// it meanwhile is lost. The parent is to run more code than the translation cache has room for.
#include "guest.h"

enum { FUNCTIONS = 30000, SIZE = 32 };

extern char functions[];
__asm__(".text\n\t.balign 32\nfunctions:\n\t.rept 30000\n\tmov $1, %eax\n\txor %ecx, %ecx\n\tadd $2, %eax\n\tadd %ecx, %eax\n\tret\n\t.balign 32\n\t.endr\n");

static volatile int got;
static void on(int sig) { (void)sig; got++; }

// pending reports whether a signal is pending for a thread, whatever it is.
static int pending(pid_t pid)
{
	char name[40], line[200];
	unsigned long set = 0;
	snprintf(name, sizeof name, "/proc/%d/status", pid);
	FILE *f = fopen(name, "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, "SigPnd:", 7))
			set = strtoul(line + 7, NULL, 16);
	if (f)
		fclose(f);
	return set != 0;
}

int main(void)
{
	int status, done[2], ready[2];
	char c;
	struct sigaction sa = {.sa_handler = on};

	CHECK(sigaction(SIGTRAP, &sa, NULL) == 0 && pipe(done) == 0 && pipe(ready) == 0);
	pid_t spinner = fork();
	if (spinner == 0) {
		CHECK(write(ready[1], "x", 1) == 1);
		while (!got)
			;
		_exit(5);
	}
	CHECK(read(ready[0], &c, 1) == 1);
	kill(spinner, SIGSTOP);
	CHECK(waitpid(spinner, &status, WUNTRACED) == spinner && WIFSTOPPED(status));
	pid_t sender = fork();
	if (sender == 0) {
		// Until the parent is done, or needs the other one.
		fcntl(done[0], F_SETFL, O_NONBLOCK);
		while (read(done[0], &c, 1) != 1 && !pending(spinner))
			usleep(1000);
		_exit(syscall(SYS_tgkill, spinner, spinner, SIGTRAP) || kill(spinner, SIGCONT));
	}
	long sum = 0;
	for (int i = 0; i < FUNCTIONS; i++)
		sum += ((int (*)(void))(functions + i * SIZE))();
	CHECK(sum == 3 * FUNCTIONS && write(done[1], "x", 1) == 1);
	CHECK(waitpid(sender, &status, 0) == sender && status == 0);
	CHECK(waitpid(spinner, &status, 0) == spinner);
	print_status("spinner", status);
	DONE();
}
