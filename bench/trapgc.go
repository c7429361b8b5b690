package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// trapHeaps are the sizes of a space, in KiB, for trapgc.
var trapHeaps = []int{64, 256, 1024, 4096, 16384}

// trapgc compares ways to find the end of a bump allocator's space: by a compare in each allocation, or by a fault, at which the
// guest itself collects, in its signal handler, or the host program does (examples/trapgc). Each run builds trees of
// 65 MB in all and tells how long that took, without its start. A time is divided by that of the compares of the same round, natively or under
// translation.
func trapgc(ctx context.Context, dir string, rounds int) error {
	guest, host, err := buildTrapGC(ctx, dir)
	if err != nil {
		return err
	}
	variants := []struct {
		name, base string
		prefix     []string
	}{
		{"compare, native", "", []string{guest, "compare"}},
		{"signal, native", "compare, native", []string{guest, "signal"}},
		{"compare, xv", "", []string{host, "-mode", "compare"}},
		{"signal, xv", "compare, xv", []string{host, "-mode", "signal"}},
		{"host, xv", "compare, xv", []string{host, "-mode", "host"}},
	}
	fmt.Printf("%-8s %-16s %9s %11s %10s   %s\n", "trapgc", "end of space", "heap KiB", "collections", "least time", "ratio to compare: min, median, max")
	for _, heap := range trapHeaps {
		times, ratios, count := map[string][]float64{}, map[string][]float64{}, map[string]int{}
		for round := range rounds + 1 {
			last := map[string]float64{}
			for _, v := range variants {
				t, n, err := runTrapGC(ctx, v.prefix, guest, heap)
				if err != nil {
					return fmt.Errorf("%s: %w", v.name, err)
				}
				last[v.name], count[v.name] = t, n
				if round == 0 { // warms up
					continue
				}
				times[v.name] = append(times[v.name], t)
				if v.base != "" {
					ratios[v.name] = append(ratios[v.name], t/last[v.base])
				}
			}
		}
		for _, v := range variants {
			t, _, _ := spread(times[v.name]) // the run that was disturbed least
			line := fmt.Sprintf("%-8s %-16s %9d %11d %8.1fms", "", v.name, heap, count[v.name], t/1e6)
			if v.base != "" {
				lo, mid, hi := spread(ratios[v.name])
				line += fmt.Sprintf("   %.3f %.3f %.3f", lo, mid, hi)
			}
			fmt.Println(line)
		}
	}
	return nil
}

// buildTrapGC builds the guest and the host program.
func buildTrapGC(ctx context.Context, dir string) (guest, host string, err error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Module.Dir}}", "xvrun/bench").Output()
	if err != nil {
		return "", "", fmt.Errorf("go list: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "tests", "testdata", "c", "trapgc.c")
	guest, host = filepath.Join(dir, "trapgc-guest"), filepath.Join(dir, "trapgc-host")
	for _, argv := range [][]string{
		{"gcc", "-O2", "-o", guest, source},
		{"go", "build", "-o", host, "xvrun/examples/trapgc"},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("%s: %w\n%s", argv[0], err, out)
		}
	}
	return guest, host, nil
}

// runTrapGC runs one variant and returns the nanoseconds and the number of collections that the guest tells.
func runTrapGC(ctx context.Context, prefix []string, guest string, heap int) (nanoseconds float64, collections int, err error) {
	const live, depth, iterations = "8", "8", "4000"
	argv := append(prefix, strconv.Itoa(heap), live, depth, iterations)
	if prefix[0] != guest {
		argv = append(prefix, "-heap", strconv.Itoa(heap), "-live", live, "-depth", depth, "-n", iterations, guest)
	}
	out, _, err := run(ctx, runner{}, argv)
	if err != nil {
		return 0, 0, err
	}
	var nodes, sum int
	if _, err := fmt.Sscanf(string(out), "live %d sum %d\nnanoseconds %g\ncollections %d\n", &nodes, &sum, &nanoseconds, &collections); err != nil {
		return 0, 0, fmt.Errorf("output %q: %w", out, err)
	}
	return nanoseconds, collections, nil
}
