// A library with thread-local variables in the models of shared libraries. It is linked to tls.c and loaded by it with
// dlopen; -mtls-dialect=gnu2 makes its general accesses ones by TLS descriptors.
#include <stddef.h>

#define MODEL(m) __attribute__((tls_model(m)))

__thread long lib_gd MODEL("global-dynamic") = 1001;
static __thread long lib_ld1 MODEL("local-dynamic") = 1002;
static __thread long lib_ld2 MODEL("local-dynamic");
static __thread char lib_big[5000] MODEL("local-dynamic") = "big";
static __thread long lib_aligned MODEL("local-dynamic") __attribute__((aligned(256))) = 1003;
__thread long lib_ie MODEL("initial-exec") = 1004;

// lib_first checks what a thread finds that has not touched the library: 0, or what is wrong.
int lib_first(void)
{
	if (lib_gd != 1001 || lib_ld1 != 1002 || lib_ld2 != 0 || lib_ie != 1004)
		return 1;
	if (lib_big[0] != 'b' || lib_big[3] != 0 || lib_big[sizeof lib_big - 1] != 0)
		return 2;
	return lib_aligned != 1003 || (size_t)&lib_aligned % 256 != 0 ? 3 : 0;
}

// lib_step changes the variables by each of the models and returns a sum of them.
long lib_step(long v)
{
	lib_gd += v;
	lib_ld1 ^= lib_gd;
	lib_ld2 += lib_ld1 * 3;
	lib_ie += lib_ld2;
	lib_big[v % sizeof lib_big] += v;
	lib_aligned += lib_big[v % sizeof lib_big] + lib_ie;
	return lib_aligned;
}

long *lib_address(int which) { return which ? &lib_ie : &lib_gd; }
