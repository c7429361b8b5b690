//go:build !plan9

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"xvrun/xv"
)

// working has 16,384 functions, of which 1,500 are hot: it calls the others in turn, ten times each, and 20 hot ones for each of those.
const working = `#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { SIZE = 128, ALL = 16384, HOT = 1500 };

int main(void)
{
	unsigned char *code = mmap(NULL, SIZE * ALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(code, SIZE * ALL, PROT_READ | PROT_WRITE);
	for (int i = 0; i < ALL; i++) {
		unsigned char *p = code + i * SIZE;
		*p++ = 0x89, *p++ = 0xf8; // mov eax,edi
		for (unsigned k = 0; k < 24; k++) {
			unsigned v = (i * 24 + k) * 2654435761u;
			*p++ = v & 0x10000 ? 0x05 : 0x35; // add eax,v or xor eax,v
			memcpy(p, &v, 4);
			p += 4;
		}
		*p = 0xc3; // ret
	}
	mprotect(code, SIZE * ALL, PROT_READ | PROT_EXEC);
	unsigned sum = 0;
	for (int n = 0; n < 10 * (ALL - HOT); n++) {
		sum = ((unsigned (*)(unsigned))(code + (HOT + n % (ALL - HOT)) * SIZE))(sum);
		for (int k = 0; k < 20; k++)
			sum = ((unsigned (*)(unsigned))(code + (n * 20 + k) % HOT * SIZE))(sum);
	}
	printf("%u\n", sum);
	return 0;
}
`

// collect tells how much longer a program takes whose code is one and a half times the cache.
func collect(ctx context.Context, dir string, rounds int) error {
	src, bin := filepath.Join(dir, "working.c"), filepath.Join(dir, "working")
	if err := os.WriteFile(src, []byte(working), 0o644); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "gcc", "-O2", "-o", bin, src).CombinedOutput(); err != nil {
		return fmt.Errorf("gcc: %w: %s", err, out)
	}
	run := func(cache int) (time.Duration, xv.Stats, error) {
		cmd := xv.CommandContext(ctx, bin)
		cmd.Options.CacheSize = cache
		start := time.Now()
		err := cmd.Run()
		if err != nil {
			return 0, xv.Stats{}, err
		}
		return time.Since(start), cmd.Process.Stats(), nil
	}
	var ratios []float64
	var st xv.Stats
	for range rounds {
		whole, all, err := run(0)
		if err != nil {
			return err
		}
		var part time.Duration
		if part, st, err = run(int(all.CacheBytes) * 2 / 3 &^ 0xffff); err != nil {
			return err
		}
		ratios = append(ratios, part.Seconds()/whole.Seconds())
	}
	lo, mid, hi := spread(ratios)
	fmt.Printf("%-8s code of 1.5 times the cache: %.2f %.2f %.2f of the time with room for all, least, median, most; %d collections, %d regions translated, %d kept\n",
		"collect", lo, mid, hi, st.Collections, st.Regions, st.Kept)
	return nil
}
