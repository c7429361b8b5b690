//go:build !plan9

package main

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"xvrun/xv"
)

// moved is a program that is moved: it says "ready", computes until its input ends, and has a number of threads that wait meanwhile.
const moved = `
import sys, threading
for name in sys.argv[2].split(","):
    if name: __import__(name)
ended = threading.Event()
threads = [threading.Thread(target=ended.wait) for i in range(int(sys.argv[1]))]
for t in threads: t.start()
def compute():
    while not ended.is_set(): sum(i * i for i in range(1000))
threads.append(threading.Thread(target=compute))
threads[-1].start()
print("ready", flush=True)
sys.stdin.read()
ended.set()
for t in threads: t.join()
`

// relocate tells how long all threads of a program stand still when xv moves in its memory, over the number of threads and the
// code in the cache, with the translations and without.
func relocate(ctx context.Context, rounds int) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, python, "-c", "import sys; print(sys.executable)").Output(); err == nil {
		python = strings.TrimSpace(string(out)) // python3 may be a shell script
	}
	fmt.Printf("%-8s %8s %10s %-12s   %s\n", "relocate", "threads", "cache KiB", "translations", "pause: least, median, 99th percentile")
	for _, c := range []struct {
		threads int
		modules string
	}{{0, ""}, {8, ""}, {64, ""}, {8, "json,re,asyncio,decimal,email,xml.dom"}} {
		for _, keep := range []xv.Keeping{xv.KeepAll, xv.KeepHot, xv.KeepNothing} {
			pauses, cache, err := pausesOf(ctx, python, c.threads, c.modules, keep, 30*rounds)
			if err != nil {
				return err
			}
			slices.Sort(pauses)
			fmt.Printf("%-8s %8d %10d %-12s   %v %v %v\n", "", c.threads+2, cache>>10, kept[keep], pauses[0].Round(time.Microsecond),
				pauses[len(pauses)/2].Round(time.Microsecond), pauses[len(pauses)*99/100].Round(time.Microsecond))
		}
	}
	return costs(ctx, python, rounds)
}

// pausesOf moves a program n times, ten milliseconds apart, and returns the pauses, and what of the cache was in use before the first.
func pausesOf(ctx context.Context, python string, threads int, modules string, keep xv.Keeping, n int) (pauses []time.Duration, cache uint64, err error) {
	cmd := xv.CommandContext(ctx, python, "-c", moved, fmt.Sprint(threads), modules)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	defer func() {
		in.Close()
		if werr := cmd.Wait(); werr != nil {
			err = werr
		}
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return nil, 0, fmt.Errorf("%q, %w", line, err)
	}
	cache = cmd.Process.Stats().CacheBytes
	for range n {
		time.Sleep(10 * time.Millisecond)
		list, err := cmd.Process.Relocate(ctx, xv.Relocation{PID: cmd.Process.Pid, Keep: keep})
		if err != nil {
			return nil, 0, err
		}
		pauses = append(pauses, list[0].Pause)
	}
	return pauses, cache, nil
}

// fixed is a program that does the same work each time, in about two seconds.
const fixed = `
import json, re
text = json.dumps([{"name": str(i), "value": [i] * 5} for i in range(2000)])
word = re.compile(r"\d+")
for i in range(60):
    json.loads(text)
    len(word.findall(text))
    sum(j * j for j in range(100000))
`

// kept names what happens to translations.
var kept = map[xv.Keeping]string{xv.KeepAll: "kept", xv.KeepHot: "hot kept", xv.KeepNothing: "discarded"}

// costs tells how much longer a program takes for each move, with what it then executes slower, and what moving each second costs.
func costs(ctx context.Context, python string, rounds int) error {
	const apart = 50 * time.Millisecond // so that a move counts for more than the machine's noise
	for _, keep := range []xv.Keeping{xv.KeepAll, xv.KeepHot, xv.KeepNothing} {
		var each []time.Duration
		var second []float64
		for range rounds {
			still, _, err := timeMoved(ctx, python, 0, xv.KeepAll)
			if err != nil {
				return err
			}
			t, moves, err := timeMoved(ctx, python, apart, keep)
			if err != nil {
				return err
			}
			cost := (t - still) / time.Duration(max(moves, 1))
			each = append(each, cost)
			second = append(second, cost.Seconds())
		}
		lo, mid, hi := spread(each)
		slo, smid, shi := spread(second)
		fmt.Printf("%-8s %-12s %s   %v %v %v   %.2f %.2f %.2f\n", "", kept[keep], "whole cost of a move: least, median, most; % of the time if moved each second:",
			lo.Round(time.Microsecond), mid.Round(time.Microsecond), hi.Round(time.Microsecond), 100*slo, 100*smid, 100*shi)
	}
	return nil
}

// timeMoved runs the fixed program, which is moved again and again unless apart is 0. It returns how long that took and how often
// it was moved.
func timeMoved(ctx context.Context, python string, apart time.Duration, keep xv.Keeping) (time.Duration, int, error) {
	cmd := xv.CommandContext(ctx, python, "-c", fixed)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	moves := make(chan int)
	go func() {
		n := 0
		for apart > 0 && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(apart):
				if _, err := cmd.Process.Relocate(ctx, xv.Relocation{PID: cmd.Process.Pid, Keep: keep}); err == nil {
					n++
				}
			}
		}
		moves <- n
	}()
	err := cmd.Wait()
	took := time.Since(start)
	stop()
	return took, <-moves, err
}
