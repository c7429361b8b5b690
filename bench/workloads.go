package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// workload is a program to time, with the bounds that the gate enforces.
type workload struct {
	name     string
	prepare  func(ctx context.Context, dir string) (argv []string, err error)
	maxRatio float64
	maxTime  time.Duration
}

// workloads returns the start-up of a program that does nothing, recursive
// calls, an interpreter, and programs that change their code. The gate uses a shorter loop in the interpreter,
// of which start-up is a larger share: its bound is met more easily by the
// long loop than by the short one.
func workloads(gate bool) []workload {
	squares := 50_000_000
	if gate {
		squares = 10_000_000
	}
	return []workload{
		{name: "true", maxTime: 15 * time.Millisecond, prepare: func(context.Context, string) ([]string, error) {
			path, err := exec.LookPath("true")
			return []string{path}, err
		}},
		{name: "fib", maxRatio: 1.3, prepare: fib},
		{name: "python", maxRatio: 1.5, prepare: func(ctx context.Context, _ string) ([]string, error) {
			return python(ctx, squares)
		}},
		{name: "written", maxRatio: 5, prepare: generating("written")},
		{name: "toggled", maxRatio: 5, prepare: generating("toggled")},
		{name: "beside", maxRatio: 3, prepare: generating("beside")},
		{name: "outside", maxRatio: 5, prepare: generating("outside")},
	}
}

// fib compiles a recursive fib(40): hardly anything but calls and returns.
func fib(ctx context.Context, dir string) ([]string, error) {
	const source = `#include <stdio.h>
static __attribute__((noinline)) long fib(long n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
int main(void) { printf("%ld\n", fib(40)); return 0; }
`
	src, bin := filepath.Join(dir, "fib.c"), filepath.Join(dir, "fib")
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		return nil, err
	}
	// -O1 and no inlining keep the recursion as it is written.
	out, err := exec.CommandContext(ctx, "gcc", "-O1", "-fno-inline", "-fno-optimize-sibling-calls", "-o", bin, src).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("gcc: %w: %s", err, out)
	}
	return []string{bin}, nil
}

// python sums squares in the interpreter itself, not in a script that starts it.
func python(ctx context.Context, n int) ([]string, error) {
	out, err := exec.CommandContext(ctx, "python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return nil, fmt.Errorf("python3: %w", err)
	}
	const program = `
import sys
def f(n):
    s = 0
    for i in range(n):
        s += i * i
    return s
print(f(int(sys.argv[1])))
`
	return []string{strings.TrimSpace(string(out)), "-c", program, strconv.Itoa(n)}, nil
}
