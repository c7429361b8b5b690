# Compile, link and run a program; archive and shared library too.
set -e
cat > main.c <<'END'
#include <stdio.h>
#include <stdlib.h>
int square(int);
int cube(int);
static int cmp(const void *a, const void *b) { return *(int *)a - *(int *)b; }
int main(void)
{
	int v[] = {5, 3, 9, 1};
	qsort(v, 4, sizeof v[0], cmp);
	for (int i = 0; i < 4; i++)
		printf("%d %d %d\n", v[i], square(v[i]), cube(v[i]));
	return 3;
}
END
echo 'int square(int x) { return x * x; }' > square.c
echo 'int cube(int x) { return x * x * x; }' > cube.c
gcc -O2 -c main.c square.c
ar rcD libsquare.a square.o
gcc -shared -fPIC -o libcube.so cube.c
gcc -o prog main.o -L. -lsquare -lcube -Wl,-rpath,'$ORIGIN'
./prog || echo "status $?"
gcc -O2 -static -o sprog main.c square.c cube.c
./sprog || echo "status $?"
if gcc -c - -x c -o bad.o <<< 'int x = ;' 2>/dev/null; then echo "compiled nonsense"; fi
nm prog | grep -c ' T '
objdump -d prog | grep -c ret
