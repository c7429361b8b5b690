// The files in /proc that describe a process's memory, by every way to open them, and what prctl,
// arch_prctl and personality say.
#include "guest.h"
#include <elf.h>
#include <linux/openat2.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

static char text[1 << 16];
static char self[PATH_MAX];

// slurp reads fd to its end and closes it.
static size_t slurp(int fd)
{
	size_t n = 0;
	ssize_t got;
	CHECK(fd >= 0);
	while ((got = read(fd, text + n, sizeof text - 1 - n)) > 0)
		n += got;
	text[n] = 0;
	close(fd);
	return n;
}

// Each line of a maps file.
struct map {
	unsigned long lo, hi, off;
	char prot[5];
	char name[PATH_MAX];
};

static struct map maps[200];
static int count;

static void parse(void)
{
	count = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		struct map *m = &maps[count];
		m->name[0] = 0;
		if (sscanf(line, "%lx-%lx %4s %lx %*s %*s %s", &m->lo, &m->hi, m->prot, &m->off, m->name) < 4)
			continue;
		CHECK(count == 0 || m[-1].hi <= m->lo);
		count++;
	}
}

static struct map *find(const void *p)
{
	for (int i = 0; i < count; i++)
		if ((unsigned long)p >= maps[i].lo && (unsigned long)p < maps[i].hi)
			return &maps[i];
	return NULL;
}

static const char *prot(const void *p)
{
	slurp(open("/proc/self/maps", O_RDONLY));
	parse();
	struct map *m = find(p);
	return m ? m->prot : "none";
}

// sorted prints what is executable, by name: the order of the images is not that of the original program.
static void sorted(const char *how)
{
	parse();
	for (int i = 0; i < count; i++)
		for (int j = i + 1; j < count; j++)
			if (strcmp(maps[j].name, maps[i].name) < 0) {
				struct map m = maps[i];
				maps[i] = maps[j];
				maps[j] = m;
			}
	printf("%s: executable", how);
	for (int i = 0; i < count; i++)
		if (strchr(maps[i].prot, 'x')) {
			const char *base = strrchr(maps[i].name, '/');
			printf(" %s %s", maps[i].prot, base ? base + 1 : maps[i].name);
		}
	printf("\n");
}

static void ways(void)
{
	char name[100];
	slurp(open("/proc/self/maps", O_RDONLY));
	sorted("maps");
	slurp(syscall(SYS_open, "/proc/self/maps", O_RDONLY));
	sorted("open");
	snprintf(name, sizeof name, "/proc/%d/maps", getpid());
	slurp(open(name, O_RDONLY));
	sorted("number");
	snprintf(name, sizeof name, "/proc/self/task/%d/maps", getpid());
	slurp(open(name, O_RDONLY));
	sorted("task");
	slurp(open("/proc/thread-self/maps", O_RDONLY));
	sorted("thread");
	int dir = open("/proc/self", O_RDONLY | O_DIRECTORY);
	slurp(openat(dir, "maps", O_RDONLY));
	sorted("directory");
	struct open_how how = {.flags = O_RDONLY};
	int fd = syscall(SYS_openat2, dir, "./task/../maps", &how, sizeof how);
	slurp(fd);
	sorted("openat2");
	close(dir);
	CHECK(symlink("/proc/self/maps", "link") == 0);
	slurp(open("link", O_RDONLY));
	unlink("link");
	sorted("link");
	int cwd = open(".", O_RDONLY);
	CHECK(chdir("/proc/self") == 0);
	slurp(open("maps", O_RDONLY));
	CHECK(fchdir(cwd) == 0);
	close(cwd);
	sorted("cwd");
	int path = open("/proc/self/maps", O_PATH | O_CLOEXEC);
	CHECK(path >= 0 && read(path, name, 1) == -1 && errno == EBADF);
	snprintf(name, sizeof name, "/proc/self/fd/%d", path);
	slurp(open(name, O_RDONLY));
	sorted("path");
	close(path);
	// Descriptor flags and offsets are as asked for.
	int a = open("/proc/self/maps", O_RDONLY), b = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	CHECK(fcntl(a, F_GETFD) == 0 && fcntl(b, F_GETFD) == FD_CLOEXEC && b == a + 1);
	CHECK(read(a, name, 10) == 10 && lseek(a, 0, SEEK_CUR) == 10 && lseek(a, 0, SEEK_SET) == 0);
	CHECK((fcntl(a, F_GETFL) & O_ACCMODE) == O_RDONLY && write(a, name, 1) == -1 && errno == EBADF);
	close(a);
	close(b);
	a = open("/dev/null", O_RDONLY);
	CHECK(a == b - 1);
	close(a);
	CHECK(open("/proc/self/nothing", O_RDONLY) == -1 && errno == ENOENT);
	slurp(open("/proc/self/comm", O_RDONLY));
	printf("comm %s", text);
}

static void protections(void)
{
	CHECK(!strcmp(prot(parse), "r-xp") && !strcmp(find(parse)->name, self));
	CHECK(!strcmp(prot(text), "rw-p"));
	CHECK(!strcmp(prot(&text), "rw-p") && !strcmp(prot(__builtin_frame_address(0)), "rw-p"));
	CHECK(!strcmp(find(__builtin_frame_address(0))->name, "[stack]"));
	char *brk = sbrk(4096);
	CHECK(!strcmp(prot(brk), "rw-p") && !strcmp(find(brk)->name, "[heap]"));
	// Three pages of code, of which one is executed: it can't be written in truth.
	unsigned char *code = mmap(NULL, 5 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(mprotect(code + 4096, 3 * 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	memcpy(code + 2 * 4096, "\xb8\x07\x00\x00\x00\xc3", 6); // mov eax, 7; ret
	CHECK(((int (*)(void))(code + 2 * 4096))() == 7);
	CHECK(!strcmp(prot(code + 2 * 4096), "rwxp"));
	CHECK(find(code + 2 * 4096)->lo == (unsigned long)code + 4096 && find(code + 4096)->hi == (unsigned long)code + 4 * 4096);
	CHECK(!strcmp(prot(code), "---p") && !strcmp(prot(code + 4 * 4096), "---p"));
	CHECK(mprotect(code + 4096, 4096, PROT_READ | PROT_EXEC) == 0 && !strcmp(prot(code + 4096), "r-xp"));
	CHECK(mprotect(code + 4096, 4096, PROT_EXEC) == 0 && !strcmp(prot(code + 4096), "--xp"));
	CHECK(mprotect(code + 4096, 3 * 4096, PROT_READ) == 0 && !strcmp(prot(code + 2 * 4096), "r--p"));
	munmap(code, 5 * 4096);
	// Written at one address, executed at another.
	int fd = syscall(SYS_memfd_create, "code", 0);
	CHECK(ftruncate(fd, 8192) == 0);
	unsigned char *w = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned char *x = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	memcpy(w, "\xb8\x08\x00\x00\x00\xc3", 6);
	CHECK(((int (*)(void))x)() == 8);
	CHECK(!strcmp(prot(w), "rw-s") && find(w)->hi == (unsigned long)w + 8192 && find(w)->off == 0);
	CHECK(!strcmp(prot(x), "r-xs") && find(x)->off == 0);
	CHECK(((int (*)(void))x)() == 8);
	munmap(w, 8192);
	munmap(x, 8192);
	close(fd);
}

static void smaps(void)
{
	unsigned long lo, hi, size;
	int lines = 0, ex = 0, x = 0;
	char p[5];
	slurp(open("/proc/self/smaps", O_RDONLY));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		if (sscanf(line, "%lx-%lx %4s", &lo, &hi, p) == 3) {
			lines++;
			x += p[2] == 'x';
			CHECK(strstr(line, "memfd") == NULL);
		} else if (sscanf(line, "Size: %lu kB", &size) == 1) {
			CHECK(size * 1024 == hi - lo);
		} else if (!strncmp(line, "VmFlags:", 8)) {
			CHECK((strstr(line, " ex ") != NULL) == (p[2] == 'x'));
			ex += strstr(line, " ex ") != NULL;
		}
	}
	CHECK(lines > 5 && ex == x && x > 0);
}

static void auxv(void)
{
	static Elf64_auxv_t all[64];
	int fd = open("/proc/self/auxv", O_RDONLY);
	ssize_t n = read(fd, all, sizeof all);
	CHECK(n > 0);
	close(fd);
	int entries = 0;
	for (int i = 0; i < n / (int)sizeof all[0] && all[i].a_type != AT_NULL; i++) {
		entries++;
		if (all[i].a_type == AT_HWCAP) // the C library changes its copy
			continue;
		if (getauxval(all[i].a_type) != all[i].a_un.a_val)
			printf("FAIL auxv entry %lu is %lx, not %lx\n", all[i].a_type, all[i].a_un.a_val, getauxval(all[i].a_type));
	}
	CHECK(entries > 15);
	slurp(open("/proc/self/stat", O_RDONLY));
	unsigned long f[60] = {0};
	int i = 3;
	for (char *p = strrchr(text, ')') + 4; *p && i < 59; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : p + strlen(p))
		f[++i] = strtoul(p, NULL, 10);
	CHECK(f[26] <= (unsigned long)parse && (unsigned long)parse < f[27]);
	CHECK(f[45] <= (unsigned long)&text && f[45] <= f[46] && f[47] <= (unsigned long)sbrk(0));
	CHECK(f[28] <= (unsigned long)getauxval(AT_RANDOM) && !strcmp(prot((void *)f[28]), "rw-p"));
}

static void others(char *argv0)
{
	char name[100];
	int ready[2], go[2], status;
	CHECK(pipe(ready) == 0 && pipe(go) == 0);
	for (int exec = 0; exec < 2; exec++) {
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0) {
			dup2(ready[1], 10);
			dup2(go[0], 11);
			if (exec)
				execl(argv0, argv0, "wait", NULL);
			char c = 0;
			CHECK(write(10, &c, 1) == 1 && read(11, &c, 1) == 1);
			_exit(0);
		}
		char c;
		CHECK(read(ready[0], &c, 1) == 1);
		snprintf(name, sizeof name, "/proc/%d/maps", pid);
		slurp(open(name, O_RDONLY));
		sorted(exec ? "executed" : "forked");
		snprintf(name, sizeof name, "/proc/%d/exe", pid);
		ssize_t n = readlink(name, text, sizeof text - 1);
		text[n > 0 ? n : 0] = 0;
		CHECK(!strcmp(text, self));
		int fd = open(name, O_RDONLY);
		CHECK(read(fd, text, 4) == 4 && !memcmp(text, "\x7f" "ELF", 4));
		close(fd);
		snprintf(name, sizeof name, "/proc/%d/cmdline", pid);
		CHECK(slurp(open(name, O_RDONLY)) == strlen(argv0) + 1 + (exec ? 5 : 0));
		CHECK(write(go[1], "x", 1) == 1 && waitpid(pid, &status, 0) == pid && status == 0);
	}
}

static void control(char *argv0)
{
	int status;
	CHECK(personality(0xffffffff) == 0);
	CHECK(personality(READ_IMPLIES_EXEC) == 0 && personality(0xffffffff) == READ_IMPLIES_EXEC);
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(code, "\xb8\x09\x00\x00\x00\xc3", 6);
	CHECK(((int (*)(void))code)() == 9 && !strcmp(prot(code), "rwxp"));
	CHECK(personality(0) == READ_IMPLIES_EXEC);
	CHECK(mprotect(code, 4096, PROT_READ) == 0 && !strcmp(prot(code), "r--p"));
	CHECK(prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_GET_DUMPABLE) == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 7) == -1 && errno == EINVAL);
	pid_t pid = fork();
	if (pid == 0) {
		CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
		CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
		execl(argv0, argv0, "controlled", NULL);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0 && prctl(PR_GET_DUMPABLE) == 1);
	// Memory that may not become executable.
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		mprotect(code, 4096, PROT_READ | PROT_EXEC);
		if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0) {
			CHECK(prctl(PR_GET_MDWE, 0, 0, 0, 0) == PR_MDWE_REFUSE_EXEC_GAIN);
			CHECK(mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EACCES);
			CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
			void *data = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			CHECK(mprotect(data, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
			CHECK(mprotect(code, 4096, PROT_EXEC) == 0 && mprotect(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == -1);
			CHECK(mprotect(code, 4096, PROT_READ) == 0 && mprotect(code, 4096, PROT_READ | PROT_EXEC) == -1);
			fflush(stdout);
			if (fork() == 0) {
				CHECK(mprotect(data, 4096, PROT_READ | PROT_EXEC) == -1);
				execl(argv0, argv0, "refused", NULL);
			}
			CHECK(wait(&status) > 0 && status == 0);
		}
		fflush(stdout);
		_exit(failures);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	// A signal when the parent dies.
	int done[2];
	CHECK(pipe(done) == 0);
	pid = fork();
	if (pid == 0) {
		int ready[2];
		CHECK(pipe(ready) == 0);
		if (fork() == 0) {
			sigset_t set;
			int sig;
			sigemptyset(&set);
			sigaddset(&set, SIGUSR1);
			sigprocmask(SIG_BLOCK, &set, NULL);
			CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
			CHECK(write(ready[1], "x", 1) == 1);
			CHECK(sigwait(&set, &sig) == 0 && sig == SIGUSR1);
			char result = failures;
			CHECK(write(done[1], &result, 1) == 1);
			_exit(0);
		}
		char c;
		CHECK(read(ready[0], &c, 1) == 1);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	char result;
	CHECK(read(done[0], &result, 1) == 1 && result == 0);
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	CHECK(n > 0);
	if (argc > 1 && !strcmp(argv[1], "wait")) {
		char c = 0;
		return !(write(10, &c, 1) == 1 && read(11, &c, 1) == 1);
	}
	if (argc > 1 && !strcmp(argv[1], "refused")) {
		CHECK(prctl(PR_GET_MDWE, 0, 0, 0, 0) == PR_MDWE_REFUSE_EXEC_GAIN);
		CHECK(mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EACCES);
		DONE();
	}
	if (argc > 1) {
		CHECK(prctl(PR_GET_DUMPABLE) == 1 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
		CHECK(personality(0xffffffff) == 0);
		DONE();
	}
	ways();
	protections();
	smaps();
	auxv();
	others(argv[0]);
	control(argv[0]);
	DONE();
}
