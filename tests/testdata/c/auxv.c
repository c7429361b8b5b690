// What the kernel puts on the stack of a new program: arguments, environment
// and the auxiliary vector, and that it is consistent with the program.
#include "guest.h"
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/time.h>

extern char **environ;
extern char _start[];

static const char *const names[] = {
	[AT_PHDR] = "PHDR", [AT_PHENT] = "PHENT", [AT_PHNUM] = "PHNUM", [AT_PAGESZ] = "PAGESZ", [AT_BASE] = "BASE",
	[AT_FLAGS] = "FLAGS", [AT_ENTRY] = "ENTRY", [AT_UID] = "UID", [AT_EUID] = "EUID", [AT_GID] = "GID",
	[AT_EGID] = "EGID", [AT_PLATFORM] = "PLATFORM", [AT_HWCAP] = "HWCAP", [AT_CLKTCK] = "CLKTCK",
	[AT_SECURE] = "SECURE", [AT_RANDOM] = "RANDOM", [AT_HWCAP2] = "HWCAP2", [AT_EXECFN] = "EXECFN",
	[AT_SYSINFO_EHDR] = "SYSINFO_EHDR", [27] = "RSEQ_FEATURE_SIZE", [28] = "RSEQ_ALIGN", [51] = "MINSIGSTKSZ",
};

// vdso_symbol finds a function of the vdso by name.
static void *vdso_symbol(const char *name)
{
	char *base = (char *)getauxval(AT_SYSINFO_EHDR);
	Elf64_Ehdr *eh = (Elf64_Ehdr *)base;
	Elf64_Phdr *ph = (Elf64_Phdr *)(base + eh->e_phoff);
	Elf64_Dyn *dyn = NULL;
	Elf64_Sym *sym = NULL;
	char *str = NULL;
	uint32_t *hash = NULL;
	size_t bias = 0, count = 0;

	for (int i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type == PT_LOAD)
			bias = (size_t)base - ph[i].p_vaddr + ph[i].p_offset;
		if (ph[i].p_type == PT_DYNAMIC)
			dyn = (Elf64_Dyn *)(base + ph[i].p_offset);
	}
	for (; dyn->d_tag; dyn++) {
		if (dyn->d_tag == DT_STRTAB)
			str = (char *)(bias + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_SYMTAB)
			sym = (Elf64_Sym *)(bias + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_HASH)
			hash = (uint32_t *)(bias + dyn->d_un.d_ptr);
	}
	// Without a hash table, the string table follows the symbols.
	count = hash ? hash[1] : (size_t)(str - (char *)sym) / sizeof *sym;
	for (size_t i = 0; i < count; i++)
		if (!strcmp(str + sym[i].st_name, name))
			return (void *)(bias + sym[i].st_value);
	return NULL;
}

int main(int argc, char **argv)
{
	// The vector follows the environment.
	CHECK(argv[argc] == NULL && (char **)environ == argv + argc + 1);
	char **e = environ;
	while (*e)
		e++;
	Elf64_auxv_t *av = (Elf64_auxv_t *)(e + 1);
	CHECK(((uintptr_t)argv & 15) == 8);
	for (; av->a_type != AT_NULL; av++) {
		uint64_t t = av->a_type, v = av->a_un.a_val;
		const char *name = t < sizeof names / sizeof names[0] && names[t] ? names[t] : "?";
		printf("AT %lu %s", t, name);
		switch (t) {
		case AT_PHENT: case AT_PHNUM: case AT_PAGESZ: case AT_FLAGS: case AT_UID: case AT_EUID: case AT_GID: case AT_EGID:
		case AT_HWCAP: case AT_CLKTCK: case AT_SECURE: case AT_HWCAP2: case 27: case 28: case 51:
			printf(" %#lx", v);
			break;
		case AT_PLATFORM: case AT_EXECFN:
			printf(" %s", (char *)v);
		}
		printf("\n");
		// glibc keeps capability bits of its own making.
		CHECK(t == AT_HWCAP || getauxval(t) == v);
	}
	// Strings lie above the vector, in their order.
	char *low = (char *)av, *prev = argv[0];
	for (int i = 0; i < argc; i++) {
		CHECK(argv[i] > low && (i == 0 || argv[i] == prev + strlen(prev) + 1));
		prev = argv[i];
	}
	for (e = environ; *e; e++) {
		CHECK(*e == prev + strlen(prev) + 1);
		prev = *e;
	}
	CHECK((char *)getauxval(AT_EXECFN) > prev);

	// The program headers are those of the file.
	Elf64_Ehdr eh;
	Elf64_Phdr file[64], *ph = (Elf64_Phdr *)getauxval(AT_PHDR);
	int fd = open("/proc/self/exe", O_RDONLY), interp = 0;
	CHECK(fd >= 0 && read(fd, &eh, sizeof eh) == sizeof eh);
	CHECK(eh.e_phnum == getauxval(AT_PHNUM) && eh.e_phentsize == getauxval(AT_PHENT));
	CHECK(pread(fd, file, sizeof file[0] * eh.e_phnum, eh.e_phoff) > 0);
	CHECK(memcmp(file, ph, sizeof file[0] * eh.e_phnum) == 0);
	uint64_t bias = (uint64_t)ph - eh.e_phoff;
	for (int i = 0; i < eh.e_phnum; i++) {
		if (ph[i].p_type == PT_PHDR)
			bias = (uint64_t)ph - ph[i].p_vaddr;
		if (ph[i].p_type == PT_INTERP)
			interp = 1;
	}
	if (eh.e_type == ET_EXEC)
		bias = 0;
	CHECK(getauxval(AT_ENTRY) == (uint64_t)_start && (uint64_t)_start == eh.e_entry + bias);
	CHECK((getauxval(AT_BASE) != 0) == interp);
	if (interp)
		CHECK(memcmp((void *)getauxval(AT_BASE), ELFMAG, 4) == 0);
	unsigned char *rnd = (unsigned char *)getauxval(AT_RANDOM);
	int zeros = 0;
	for (int i = 0; i < 16; i++)
		zeros += rnd[i] == 0;
	CHECK(zeros < 8);

	// The vdso is an ELF image whose functions work.
	CHECK(memcmp((void *)getauxval(AT_SYSINFO_EHDR), ELFMAG, 4) == 0);
	int (*gettime)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))vdso_symbol("__vdso_clock_gettime");
	CHECK(gettime != NULL);
	struct timespec a, b, c;
	for (int i = 0; i < 1000 && gettime; i++) {
		CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &a) == 0);
		CHECK(gettime(CLOCK_MONOTONIC, &b) == 0);
		CHECK(clock_gettime(CLOCK_MONOTONIC, &c) == 0);
		CHECK(a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec <= b.tv_nsec));
		CHECK(b.tv_sec < c.tv_sec || (b.tv_sec == c.tv_sec && b.tv_nsec <= c.tv_nsec));
	}
	struct timeval tv;
	CHECK(gettimeofday(&tv, NULL) == 0 && labs(tv.tv_sec - time(NULL)) <= 1);
	unsigned cpu;
	CHECK(syscall(SYS_getcpu, &cpu, NULL, NULL) == 0);
	CHECK(getpid() == syscall(SYS_getpid));
	// The stack is where the kernel says, and grows.
	char here;
	CHECK(&here < (char *)argv && (char *)argv - &here < 1 << 20);
	volatile char *deep = __builtin_alloca(4 << 20);
	deep[0] = 1;
	DONE();
}
