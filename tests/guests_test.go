package tests

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"xvrun/tests/harness"
)

// guest is a program of testdata and the ways in which it is linked and run.
type guest struct {
	src   string
	kinds []harness.Kind // PIE if empty
	flags []string       // for the compiler
	runs  []run          // one without arguments if empty
	xvrun []string       // flags for xvrun
	links []library      // it is linked with
	loads []library      // it loads itself: their paths are its first arguments
}

// library is a shared library of testdata.
type library struct {
	src   string
	flags []string
}

func (l library) build(t *testing.T) string {
	return harness.Guest(t, l.src, harness.Shared, l.flags...)
}

// run is one execution of a guest.
type run struct {
	name    string
	args    []string
	env     []string
	stdin   string
	exit    int
	signal  syscall.Signal
	timeout time.Duration
}

var (
	bare    = []harness.Kind{harness.Bare}
	goKinds = []harness.Kind{harness.Static, harness.PIE}
)

var basicGuests = []guest{
	{src: "asm/hello.S", kinds: bare, runs: []run{{exit: 7}}},
	{src: "asm/calls.S", kinds: bare},
	{src: "c/hello.c", kinds: harness.AllKinds},
	{src: "c/env.c", kinds: harness.AllKinds, runs: []run{
		{name: "none"},
		{name: "some", args: []string{"", "a b", "--", "-v", "\xff\n"}, env: []string{"XV_A=1", "XV_EMPTY=", "XV_A=2"}},
	}},
	{src: "c/libc.c", kinds: harness.AllKinds, flags: []string{"-lm"}},
	{src: "c/exit.c", kinds: []harness.Kind{harness.Static, harness.PIE}, runs: exitRuns()},
	{src: "c/forks.c", kinds: harness.AllKinds},
	{src: "c/threads.c", kinds: harness.AllKinds},
	{src: "c/signals.c", kinds: harness.AllKinds},
	{src: "c/jumps.c", kinds: harness.AllKinds},
	{src: "cc/throw.cc", kinds: []harness.Kind{harness.Static, harness.StaticPIE, harness.NoPIE, harness.PIE}},
	{src: "go/hello.go", kinds: goKinds},
	{src: "go/runtime.go", kinds: goKinds},
}

// fixed are the kinds that are linked to their address.
var fixed = []harness.Kind{harness.Static, harness.NoPIE}

// glibc are the kinds with a libc that has everything.
var glibc = []harness.Kind{harness.Static, harness.StaticPIE, harness.NoPIE, harness.PIE}

var guests = []guest{
	{src: "asm/edges.S", kinds: bare},
	{src: "c/auxv.c", kinds: harness.AllKinds},
	{src: "c/self.c", kinds: glibc},
	{src: "c/procfs.c", kinds: glibc},
	{src: "c/memory.c", kinds: glibc},
	{src: "c/limits.c", kinds: glibc},
	{src: "c/faults.c", kinds: glibc, runs: []run{{name: "main"}, {name: "altstack", args: []string{"x"}}}},
	{src: "c/sigstack.c", kinds: glibc},
	{src: "c/sigframe.c", kinds: glibc},
	{src: "c/handlers.c", kinds: glibc},
	{src: "c/beneath.c", kinds: []harness.Kind{harness.NoPIE, harness.PIE}, flags: []string{"-ldl"}},
	{src: "c/replaced.c", kinds: []harness.Kind{harness.Static, harness.PIE}},
	{src: "c/switches.c", kinds: glibc},
	{src: "c/pkeys.c"},
	{src: "c/sigqueue.c", kinds: glibc},
	{src: "c/stepping.c", kinds: glibc},
	{src: "c/anywhere.c"},
	{src: "c/sequences.c"},
	{src: "c/sigmasks.c", kinds: harness.AllKinds},
	{src: "c/syncsignals.c", kinds: []harness.Kind{harness.Static, harness.PIE}},
	{src: "c/storm.c", kinds: glibc},
	{src: "c/async.c", kinds: glibc, runs: []run{{timeout: 2 * time.Minute}}},
	{src: "c/procs.c", kinds: glibc},
	{src: "c/killed.c"},
	{src: "c/newborn.c"},
	{src: "c/pthreads.c", kinds: glibc, runs: []run{{exit: 17}}},
	{src: "c/futexes.c", kinds: glibc},
	{src: "c/atomics.c", kinds: []harness.Kind{harness.Static, harness.PIE}},
	{src: "c/manythreads.c", kinds: glibc},
	{src: "c/progress.c"},
	{src: "c/clones.c", kinds: glibc},
	{src: "c/entries.c", kinds: glibc},
	{src: "c/killedparent.c", kinds: glibc},
	{src: "c/setids.c", kinds: glibc},
	{src: "c/seccomp.c", kinds: glibc},
	{src: "c/outlive.c", kinds: glibc, runs: []run{{exit: 4}}},
	{src: "c/poll.c", kinds: harness.AllKinds},
	{src: "c/jit.c", kinds: harness.AllKinds},
	{src: "c/writers.c", kinds: glibc},
	{src: "c/hints.c", kinds: glibc},
	{src: "c/membarrier.c", kinds: harness.AllKinds},
	{src: "c/jitthreads.c"},
	{src: "c/code.c", kinds: harness.AllKinds},
	{src: "c/births.c"},
	// LeakSanitizer needs ptrace(2).
	{src: "c/asan.c", flags: []string{"-fsanitize=address", "-ldl"}, runs: []run{
		{name: "good", env: []string{"ASAN_OPTIONS=detect_leaks=0"}},
		{name: "bad", args: []string{"10"}, env: []string{"ASAN_OPTIONS=detect_leaks=0:exitcode=9:symbolize=0:log_path=/dev/null"}, exit: 9},
	}},
	{src: "c/moved.c"},
	{src: "c/returns.c", kinds: glibc},
	{src: "c/next.c", kinds: []harness.Kind{harness.NoPIE, harness.PIE}, flags: []string{"-ldl"}, links: []library{{"c/nextlib.c", []string{"-ldl"}}}},
	{src: "c/toggle.c", kinds: glibc, flags: []string{"-lpthread"}},
	{src: "c/trampoline.c", kinds: glibc, flags: []string{"-Wl,-z,execstack"}},
	{src: "c/patch.c", kinds: harness.AllKinds},
	{src: "c/apart.c", kinds: harness.AllKinds},
	{src: "c/manymaps.c"},
	{src: "c/wherever.c", kinds: []harness.Kind{harness.StaticPIE, harness.PIE}, flags: []string{"-lpthread"}},
	{src: "c/breaks.c", kinds: fixed},
	{src: "c/lowmem.c", flags: []string{"-ldl", "-lpthread"}, xvrun: []string{"-high-images"}},
	{src: "c/libc.c", kinds: glibc, flags: []string{"-lm"}, xvrun: []string{"-high-images"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-Wl,-Ttext-segment=0x40000000"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-Wl,-Ttext-segment=0x48000000"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-Wl,-Ttext-segment=0x58000000"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-Wl,-Ttext-segment=0x70000000"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-DBSS=0x5c000000"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-DBSS=0x6e800000"}},
	{src: "c/linked.c", kinds: fixed, flags: []string{"-DBSS=0x7f000000"}},
	{src: "c/linked.c", kinds: []harness.Kind{harness.NoPIE}, flags: []string{"-DBSS=0x90000000", "-mcmodel=medium"}}, // where lookup tables are
	{src: "c/lookup.c"},
	{src: "c/tables.c", kinds: glibc, flags: []string{"-lm", "-lpthread"}, runs: []run{
		{args: []string{"mmap"}}, {args: []string{"calls"}}, {args: []string{"reserve"}}, {args: []string{"mremap"}}, {args: []string{"shmat"}}, {args: []string{"code"}},
	}},
	{src: "c/pokes.c", kinds: glibc},
	{src: "c/uring.c", kinds: glibc},
	{src: "c/uffd.c", kinds: glibc, flags: []string{"-lm"}, runs: []run{{name: "call"}, {name: "user", args: []string{"user"}}, {name: "device", args: []string{"device"}}}},
	{src: "c/shm.c", kinds: glibc},
	{src: "c/alignment.c"},
	{src: "c/dlopen.c", kinds: []harness.Kind{harness.NoPIE, harness.PIE}, flags: []string{"-ldl"}, runs: []run{{name: "few"}, {name: "many", args: []string{"x"}}}},
	{src: "c/tls.c", kinds: []harness.Kind{harness.NoPIE, harness.PIE}, links: []library{{"c/tlslib.c", []string{"-DLINKED"}}},
		loads: []library{{"c/tlslib.c", []string{"-mtls-dialect=gnu"}}, {"c/tlslib.c", []string{"-mtls-dialect=gnu2"}}}},
	{src: "cc/unwind.cc", kinds: glibc, flags: []string{"-fnon-call-exceptions"}, runs: []run{{signal: syscall.SIGABRT}}},
	{src: "go/stress.go", kinds: goKinds},
}

// TestGuests has one guest for each part of the interface to the kernel.
func TestGuests(t *testing.T) { runGuests(t, guests) }

// TestSoak runs for minutes what the others run for seconds.
func TestSoak(t *testing.T) {
	harness.NeedSoak(t)
	runGuests(t, []guest{
		{src: "go/stress.go", runs: []run{{args: []string{"120"}, env: []string{"GOMAXPROCS=2"}, timeout: 5 * time.Minute}}},
		{src: "c/storm.c", runs: []run{{args: []string{"1000000"}, timeout: 10 * time.Minute}}},
		{src: "c/async.c", runs: []run{{args: []string{"30000"}, timeout: 10 * time.Minute}}},
	})
}

// TestScripts starts files that begin with #!.
func TestScripts(t *testing.T) { runScripts(t) }

// runScripts does that with flags for xvrun.
func runScripts(t *testing.T, flags ...string) {
	show := harness.TestData("c", "env.c")
	for _, s := range []struct {
		name string
		text string // @ is the program that shows its arguments
		exit int
	}{
		{name: "shell", text: "#!/bin/sh\necho $0 $# $1\nexit 3\n", exit: 3},
		{name: "argument", text: "#!@ one argument\n"},
		{name: "spaces", text: "#!   @ \t x  y \t \n"},
		{name: "no-newline", text: "#!@ x"},
		{name: "env", text: "#!/usr/bin/env -S sh -e\nfalse\necho not reached\n", exit: 1},
		{name: "chain", text: "#!./inner outer\n"},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			program := harness.BuildFile(t, show, harness.PIE)
			script := func(text string) string { return strings.ReplaceAll(text, "@", program) }
			harness.Compare(t, harness.Case{Spec: harness.Spec{
				Argv: []string{"./script", "a", "b c"},
				Files: []harness.File{
					{Name: "script", Data: script(s.text), Mode: 0o755},
					{Name: "inner", Data: script("#!@ inner\n"), Mode: 0o755},
				},
				Flags: flags,
			}, Exit: s.exit})
		})
	}
}

func exitRuns() []run {
	runs := []run{
		{name: "return"},
		{name: "status", args: []string{"return", "200"}, exit: 200},
		{name: "exit", args: []string{"exit", "77"}, exit: 77},
		{name: "wraps", args: []string{"exit", "256"}},
		{name: "_exit", args: []string{"_exit", "255"}, exit: 255},
		{name: "group", args: []string{"group", "4"}, exit: 4},
		{name: "thread", args: []string{"thread", "5"}, exit: 5},
		{name: "abort", args: []string{"abort"}, signal: syscall.SIGABRT},
		{name: "segv", args: []string{"segv"}, signal: syscall.SIGSEGV},
		{name: "jump0", args: []string{"jump0"}, signal: syscall.SIGSEGV},
		{name: "jumpdata", args: []string{"jumpdata"}, signal: syscall.SIGSEGV},
		{name: "noncanonical", args: []string{"noncanonical"}, signal: syscall.SIGSEGV},
		{name: "div", args: []string{"div"}, signal: syscall.SIGFPE},
		{name: "ill", args: []string{"ill"}, signal: syscall.SIGILL},
		{name: "trap", args: []string{"trap"}, signal: syscall.SIGTRAP},
		{name: "hlt", args: []string{"hlt"}, signal: syscall.SIGSEGV},
		{name: "overflow", args: []string{"overflow"}, signal: syscall.SIGSEGV},
		{name: "deep", args: []string{"deep"}, signal: syscall.SIGSEGV},
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL,
		syscall.SIGUSR1, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTERM, syscall.SIGXCPU, 34, 64} {
		n := itoa(int(sig))
		runs = append(runs, run{name: "raise" + n, args: []string{"raise", n}, signal: sig})
	}
	return append(runs, run{name: "kill15", args: []string{"kill", "15"}, signal: syscall.SIGTERM},
		// Signals that are ignored by default change nothing.
		run{name: "raise17", args: []string{"raise", "17", "0"}, exit: 17})
}

func TestBasic(t *testing.T) { runGuests(t, basicGuests) }

// runGuests runs every guest in every kind as a subtest src/kind/run.
func runGuests(t *testing.T, guests []guest) {
	for _, g := range guests {
		kinds := g.kinds
		if len(kinds) == 0 {
			kinds = []harness.Kind{harness.PIE}
		}
		runs := g.runs
		if len(runs) == 0 {
			runs = []run{{}}
		}
		t.Run(stem(g.src), func(t *testing.T) {
			for _, kind := range kinds {
				t.Run(string(kind), func(t *testing.T) {
					t.Parallel()
					flags, args := slices.Clone(g.flags), []string{}
					for _, l := range g.links {
						flags = append(flags, l.build(t))
					}
					for _, l := range g.loads {
						args = append(args, l.build(t))
					}
					path := harness.Guest(t, g.src, kind, flags...)
					for _, r := range runs {
						c := harness.Case{
							Spec: harness.Spec{
								Argv:    slices.Concat([]string{path}, args, r.args),
								Env:     r.env,
								Stdin:   r.stdin,
								Timeout: r.timeout,
								Flags:   g.xvrun,
							},
							Exit:   r.exit,
							Signal: r.signal,
						}
						if r.name == "" {
							harness.Compare(t, c)
							continue
						}
						t.Run(r.name, func(t *testing.T) { harness.Compare(t, c) })
					}
				})
			}
		})
	}
}
