// Reports which descriptors are open and what they are, into a file.
#include "guest.h"
#include <dirent.h>
#include <sys/stat.h>

int main(void)
{
	struct stat st[20];
	int ok[20];

	for (int i = 0; i < 20; i++)
		ok[i] = fstat(i, &st[i]) == 0;
	FILE *f = fopen("report", "w");
	for (int i = 0; i < 20; i++)
		if (ok[i])
			fprintf(f, "%d: type %o flags %x\n", i, st[i].st_mode & S_IFMT, fcntl(i, F_GETFL) & ~O_LARGEFILE);
	// What /proc/self/fd lists: the same, and the folder itself.
	DIR *d = opendir("/proc/self/fd");
	int n = 0;
	if (d) {
		for (struct dirent *e; (e = readdir(d));)
			if (e->d_name[0] != '.')
				n++;
		closedir(d);
	}
	fprintf(f, "listed %d\n", n);
	char buf[100];
	ssize_t got = read(0, buf, sizeof buf);
	fprintf(f, "read %zd %d\n", got, got < 0 ? errno : 0);
	got = write(1, "to stdout\n", 10);
	fprintf(f, "write %zd %d\n", got, got < 0 ? errno : 0);
	got = write(2, "to stderr\n", 10);
	fprintf(f, "write %zd %d\n", got, got < 0 ? errno : 0);
	// The lowest free descriptor is the next one.
	fprintf(f, "next %d\n", open("/dev/null", O_RDONLY));
	return fclose(f) != 0;
}
