//go:build linux && amd64

// Command trapgc is an experiment: a garbage collector outside of the program. The guest (tests/testdata/c/trapgc.c) allocates by
// bumping a pointer, without comparing it with a limit: behind the space lies a protected page. At the fault of a store there this program copies the
// live objects to another space, changes the guest's registers and stack slots that point to them, and lets the store happen again.
//
//	gcc -O2 -o /tmp/guest tests/testdata/c/trapgc.c
//	go run ./examples/trapgc [-mode host|signal|compare] [-heap KiB] [-check] /tmp/guest
//
// For comparison the guest can collect by itself, in its handler of the fault (signal) or after a compare in each
// allocation (compare).
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"xvrun/xv"
	"xvrun/xv/trap"
)

// work is what the guest does.
type work struct {
	mode        string
	heap        int // size of a space in KiB
	live, depth int // of the tree that stays alive, and of those that don't
	iterations  int
	check       bool // of the heap, after each collection
}

func main() {
	var w work
	flag.StringVar(&w.mode, "mode", "host", "who collects, and when: host, signal or compare")
	flag.IntVar(&w.heap, "heap", 1024, "size of each of the two spaces in `KiB`")
	flag.IntVar(&w.live, "live", 10, "`depth` of the tree that stays alive")
	flag.IntVar(&w.depth, "depth", 12, "`depth` of the trees that do not")
	flag.IntVar(&w.iterations, "n", 1000, "`number` of these")
	flag.BoolVar(&w.check, "check", false, "walk the heap after each collection")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: trapgc [flags] guest")
		flag.PrintDefaults()
		os.Exit(2)
	}
	cmd := command(flag.Arg(0), w)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "trapgc:", err)
		os.Exit(1)
	}
}

// command is the guest with its collector.
func command(guest string, w work) *xv.Cmd {
	args := []string{w.mode, strconv.Itoa(w.heap), strconv.Itoa(w.live), strconv.Itoa(w.depth), strconv.Itoa(w.iterations)}
	if w.check {
		args = append(args, "check")
	}
	cmd := xv.Command(guest, args...)
	if w.mode != "host" {
		return cmd
	}
	c := &collector{}
	// The guest has one thread that faults, so that calls come one at a time.
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGILL}}, func(ctx *trap.Context) trap.Action {
		c.at, c.check = ctx.RAX, ctx.RBX != 0
		return trap.Skip
	})
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGSEGV}, Access: trap.Write}, func(ctx *trap.Context) trap.Action {
		if err := c.collect(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "trapgc: %v\n%s", err, ctx)
			return trap.Deliver
		}
		return trap.Retry
	})
	return cmd
}
