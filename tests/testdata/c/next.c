// dlsym(3) with RTLD_NEXT looks for the library that calls it.
#include "guest.h"
#include <dlfcn.h>
#include <sys/syscall.h>

int next_calls(void);
void *next_default(void);

int main(void)
{
	for (int i = 1; i <= 1000; i++)
		CHECK(getppid() == syscall(SYS_getppid) && next_calls() == i);
	CHECK(next_default() != NULL && dlsym(RTLD_NEXT, "next_calls") != NULL);
	CHECK(dlsym(RTLD_NEXT, "main") == NULL && dlerror() != NULL);
	DONE();
}
