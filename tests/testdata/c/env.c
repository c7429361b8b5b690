// Arguments, environment, working directory.
#include "guest.h"

extern char **environ;

int main(int argc, char **argv)
{
	char dir[PATH_MAX];

	for (int i = 0; i < argc; i++)
		printf("argv[%d]=%s\n", i, argv[i]);
	CHECK(argv[argc] == NULL);
	for (char **e = environ; *e; e++)
		printf("%s\n", *e);
	printf("cwd %s\n", getcwd(dir, sizeof dir));
	CHECK(setenv("XV_NEW", "1", 1) == 0);
	printf("getenv %s\n", getenv("XV_NEW"));
	DONE();
}
