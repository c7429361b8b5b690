// A program break that begins low in memory, and grows.
#include "guest.h"
#include <sys/prctl.h>

#define SET_MM 35
#define SET_MM_MAP 14

// struct prctl_mm_map of linux/prctl.h
static struct {
	uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, arg_end, env_start, env_end, auxv;
	uint32_t auxv_size, exe_fd;
} map;

// field returns a field of /proc/self/stat, numbered as in proc_pid_stat(5).
static uint64_t field(int n)
{
	char text[2000];
	int fd = open("/proc/self/stat", O_RDONLY);
	ssize_t len = read(fd, text, sizeof text - 1);
	close(fd);
	text[len < 0 ? 0 : len] = 0;
	char *p = strrchr(text, ')') + 1;
	for (int i = 2; i < n - 1; i++)
		p = strchr(p + 1, ' ');
	return strtoull(p, 0, 10);
}

int main(int argc, char **argv)
{
	const uintptr_t start = 0x3f000000, end = 0x58000000;
	if ((uintptr_t)sbrk(0) > start - (1 << 24) && (uintptr_t)sbrk(0) < end) { // by chance
		execv("/proc/self/exe", argv);
		return argc;
	}
	static char out[4096]; // malloc would be confused
	setvbuf(stdout, out, _IOFBF, sizeof out);
	map.start_code = field(26), map.end_code = field(27), map.start_stack = field(28);
	map.start_data = field(45), map.end_data = field(46);
	map.arg_start = field(48), map.arg_end = field(49), map.env_start = field(50), map.env_end = field(51);
	map.start_brk = map.brk = start;
	map.exe_fd = -1u;
	CHECK(prctl(SET_MM, SET_MM_MAP, &map, sizeof map, 0) == 0);
	uintptr_t at = syscall(SYS_brk, 0);
	CHECK(at == start);
	for (int i = 1; i <= 24; i++) { // 384 MiB
		uintptr_t next = start + ((uintptr_t)i << 24);
		CHECK((uintptr_t)syscall(SYS_brk, next) == next);
		volatile char *end = (char *)next - 1;
		CHECK(*end == 0);
		*end = (char)i;
	}
	for (int i = 1; i <= 24; i++)
		CHECK(*((char *)start + ((uintptr_t)i << 24) - 1) == i);
	CHECK((uintptr_t)syscall(SYS_brk, start) == start);
	// Not over other memory.
	void *other = mmap((void *)(start + 0x100000), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(other == (void *)(start + 0x100000));
	CHECK((uintptr_t)syscall(SYS_brk, start + 0x10000000) == start);
	DONE();
}
