// Command bench compares the speed of programs natively, under xvrun and under
// other ways to run them.
//
// Runs come in rounds: in each, every runner executes the workload once, and a
// runner's time is divided by the native time of the same round. A disturbance
// of the machine so meets both sides, and the spread of the ratios tells how
// far to trust the median.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	var (
		rounds = flag.Int("rounds", 7, "rounds of each workload")
		gate   = flag.Bool("gate", false, "short workloads, xvrun only; fail if a bound is exceeded")
		only   = flag.String("only", "", "workloads to run, separated by commas; all if empty")
	)
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: go run ./bench [flags]\n\nflags:\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *rounds, *gate, *only); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, rounds int, gate bool, only string) error {
	if rounds < 1 {
		return fmt.Errorf("-rounds is %d", rounds)
	}
	dir, err := os.MkdirTemp("", "xvbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	runners, err := findRunners(ctx, dir, !gate)
	if err != nil {
		return err
	}
	var exceeded []string
	fmt.Printf("%-8s %-13s %10s   %s\n", "program", "runner", "time", "ratio to native: min, median, max")
	for _, w := range workloads(gate) {
		if only != "" && !slices.Contains(strings.Split(only, ","), w.name) {
			continue
		}
		argv, err := w.prepare(ctx, dir)
		if err != nil {
			fmt.Printf("%-8s skipped: %v\n", w.name, err)
			if gate {
				exceeded = append(exceeded, w.name+" did not run")
			}
			continue
		}
		for _, r := range measure(ctx, w, argv, runners, rounds) {
			fmt.Println(r)
			if why := r.exceeds(w); gate && why != "" {
				exceeded = append(exceeded, why)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if !gate && (only == "" || slices.Contains(strings.Split(only, ","), "trapgc")) {
		if err := trapgc(ctx, dir, rounds); err != nil {
			fmt.Printf("%-8s skipped: %v\n", "trapgc", err)
		}
	}
	if !gate && (only == "" || slices.Contains(strings.Split(only, ","), "relocate")) {
		if err := relocate(ctx, rounds); err != nil {
			fmt.Printf("%-8s skipped: %v\n", "relocate", err)
		}
	}
	if !gate && (only == "" || slices.Contains(strings.Split(only, ","), "collect")) {
		if err := collect(ctx, dir, rounds); err != nil {
			fmt.Printf("%-8s skipped: %v\n", "collect", err)
		}
	}
	if len(exceeded) > 0 {
		return fmt.Errorf("regression: %s", strings.Join(exceeded, "; "))
	}
	return nil
}

// result is what one runner made of one workload.
type result struct {
	workload, runner string
	times            []time.Duration
	ratios           []float64
	err              error
}

func (r result) String() string {
	if r.err != nil {
		return fmt.Sprintf("%-8s %-13s failed: %v", r.workload, r.runner, r.err)
	}
	lo, mid, hi := spread(r.ratios)
	_, t, _ := spread(r.times)
	return fmt.Sprintf("%-8s %-13s %10s   %.3f %.3f %.3f", r.workload, r.runner, t.Round(10*time.Microsecond), lo, mid, hi)
}

// exceeds reports how a result of xvrun is outside of the bounds of w, or "".
func (r result) exceeds(w workload) string {
	if r.runner != "xvrun" {
		return ""
	}
	if r.err != nil {
		return fmt.Sprintf("%s: %v", w.name, r.err)
	}
	_, ratio, _ := spread(r.ratios)
	t, _, _ := spread(r.times) // a time without a pair: the run that was disturbed least
	switch {
	case w.maxRatio > 0 && ratio > w.maxRatio:
		return fmt.Sprintf("%s takes %.2f times the native time, bound %.2f", w.name, ratio, w.maxRatio)
	case w.maxTime > 0 && t > w.maxTime:
		return fmt.Sprintf("%s takes %v, bound %v", w.name, t, w.maxTime)
	}
	return ""
}
