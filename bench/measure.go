package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// maxRun bounds one run, for runners that hang.
const maxRun = 10 * time.Minute

// runner is a way to run a program: the words in front of it.
type runner struct {
	name   string
	prefix []string
}

// findRunners returns the native runner, xvrun and, if wanted, the peers that
// are installed.
func findRunners(ctx context.Context, dir string, peers bool) ([]runner, error) {
	xvrun := os.Getenv("XVRUN")
	if xvrun == "" {
		xvrun = filepath.Join(dir, "xvrun")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", xvrun, "xvrun/cmd/xvrun").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	store := filepath.Join(dir, "store") // the run that is not counted fills it
	runners := []runner{
		{name: "native"},
		{name: "xvrun", prefix: []string{xvrun, "-store", store}},
		{name: "xvrun, first", prefix: []string{xvrun, "-store", ""}},
	}
	if !peers {
		return runners, nil
	}
	runners = append(runners,
		runner{name: "xvrun, far", prefix: []string{xvrun, "-store", store, "-far-region"}},
		runner{name: "xvrun, native", prefix: []string{xvrun, "-store", store, "-returns=native"}},
	)
	for _, p := range []struct {
		name, env, tool string
		flags           []string
	}{
		{"qemu", "", "qemu-x86_64", nil},
		{"valgrind", "", "valgrind", []string{"-q", "--tool=none"}},
		{"drrun", "XV_DRRUN", "", []string{"--"}},
		{"runsc", "XV_RUNSC", "", []string{"--rootless", "--network=none", "do"}},
	} {
		path := os.Getenv(p.env)
		if p.tool != "" {
			path, _ = exec.LookPath(p.tool)
		}
		if path != "" {
			runners = append(runners, runner{p.name, append([]string{path}, p.flags...)})
		}
	}
	return runners, nil
}

// measure runs a workload in rounds. The first run of each runner warms the
// file cache, is checked for its output and is not counted.
func measure(ctx context.Context, w workload, argv []string, runners []runner, rounds int) []result {
	results := make([]result, len(runners))
	var want []byte
	for i, r := range runners {
		results[i] = result{workload: w.name, runner: r.name}
		out, _, err := run(ctx, r, argv)
		if i == 0 {
			want = out
		}
		if err == nil && !bytes.Equal(out, want) {
			err = errors.New("output differs from native")
		}
		results[i].err = err
	}
	for range rounds {
		var native time.Duration
		for i, r := range runners {
			if results[i].err != nil || results[0].err != nil {
				continue
			}
			_, t, err := run(ctx, r, argv)
			if i == 0 {
				native = t
			}
			results[i].err = err
			results[i].times = append(results[i].times, t)
			results[i].ratios = append(results[i].ratios, float64(t)/float64(native))
		}
	}
	return results
}

// run executes a program once and returns its standard output and the time.
func run(ctx context.Context, r runner, argv []string) ([]byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, maxRun)
	defer cancel()
	line := slices.Concat(r.prefix, argv)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	begin := time.Now()
	err := cmd.Run()
	t := time.Since(begin)
	if err != nil {
		first, _, _ := bytes.Cut(bytes.TrimSpace(diag.Bytes()), []byte{'\n'})
		err = fmt.Errorf("%w: %s", err, first)
	}
	return out.Bytes(), t, err
}

// spread returns the smallest value, the median and the largest value.
func spread[T cmp.Ordered](values []T) (lo, mid, hi T) {
	if len(values) == 0 {
		return lo, mid, hi
	}
	s := slices.Sorted(slices.Values(values))
	return s[0], s[len(s)/2], s[len(s)-1]
}
