// dlopen and dlclose of libraries that it builds from its own text: it uses
// those of the machine, and looks their functions up by name.
#include "guest.h"
#include <dlfcn.h>
#include <link.h>

static int count(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size;
	CHECK(info->dlpi_phdr != NULL && info->dlpi_phnum > 0);
	++*(int *)data;
	return 0;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? 300 : 20, before = 0, during = 0, after = 0;

	(void)argv;
	dl_iterate_phdr(count, &before);
	for (int i = 0; i < rounds; i++) {
		void *h = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
		if (!h) {
			printf("%s\n", dlerror());
			return 1;
		}
		double (*cosine)(double) = (double (*)(double))dlsym(h, "cos");
		CHECK(cosine != NULL && cosine(0) == 1.0);
		CHECK(dlsym(h, "no_such_function") == NULL);
		Dl_info di;
		CHECK(dladdr((void *)cosine, &di) && strstr(di.dli_fname, "libm") != NULL);
		if (i == 0)
			dl_iterate_phdr(count, &during);
		CHECK(dlclose(h) == 0);
		// Lazy binding resolves through the linker on the first call.
		h = dlopen("libresolv.so.2", RTLD_LAZY);
		if (h)
			dlclose(h);
	}
	dl_iterate_phdr(count, &after);
	printf("objects +%d, then +%d\n", during - before, after - before);
	CHECK(dlopen("/no/such/library.so", RTLD_NOW) == NULL);
	DONE();
}
