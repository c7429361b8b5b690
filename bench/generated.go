package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// generating compiles a program that generates code: "written" regenerates a
// function of 166 bytes 100,000 times in memory that is writable and executable
// at once, "toggled" does so between two mprotects, and "beside" calls a function
// 16 million times whose page holds data that changes with each call. "outside"
// calls 20 million times one of 64 functions where no lookup tables are, by the hash.
func generating(mode string) func(ctx context.Context, dir string) ([]string, error) {
	return func(ctx context.Context, dir string) ([]string, error) {
		src, bin := filepath.Join(dir, "generate.c"), filepath.Join(dir, "generate")
		if err := os.WriteFile(src, []byte(generator), 0o644); err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, "gcc", "-O2", "-o", bin, src).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("gcc: %w: %s", err, out)
		}
		return []string{bin, mode}, nil
	}
}

const generator = `#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

typedef int (*function)(int);

// generate writes: mov eax,edi ; add eax,v (32 times, with v counting up) ; ret
static void generate(unsigned char *p, int v)
{
	*p++ = 0x89, *p++ = 0xf8;
	for (int i = 0; i < 32; i++, v++) {
		*p++ = 0x05;
		memcpy(p, &v, 4);
		p += 4;
	}
	*p = 0xc3;
}

int main(int argc, char **argv)
{
	const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC;
	char mode = argc > 1 ? argv[1][0] : 0;
	unsigned char *p = mmap(NULL, 4096, mode == 't' ? rw : rw | rx, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	function f = (function)p;
	unsigned sum = 0;
	volatile unsigned *cell = (volatile unsigned *)(p + 2048);

	switch (mode) {
	case 'w':
		for (int i = 0; i < 100000; i++) {
			generate(p, i);
			sum += f(i);
		}
		break;
	case 't':
		for (int i = 0; i < 100000; i++) {
			mprotect(p, 4096, rw);
			generate(p, i);
			mprotect(p, 4096, rx);
			sum += f(i);
		}
		break;
	case 'b':
		generate(p, 1);
		for (int i = 0; i < 16000000; i++)
			*cell += f(i);
		sum = *cell;
		break;
	case 'o':
		p = mmap((void *)(1ul << 45), 65536, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		for (int i = 0; i < 64; i++)
			memcpy(p + 1000 * i, "\x8d\x47\x01\xc3", 4); // lea eax,[rdi+1] ; ret
		mprotect(p, 65536, rx);
		for (int i = 0; i < 20000000; i++)
			sum = ((function)(p + i % 64 * 1000))(sum);
	}
	printf("%u\n", sum);
	return 0;
}
`
