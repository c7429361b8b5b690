//go:build !plan9

// Command xvrun runs an unmodified Linux x86-64 program under dynamic binary
// translation.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"xvrun/loader"
	"xvrun/xv"
	"xvrun/xv/trap"
)

// exitOwn is the exit status of xvrun's own failures.
const exitOwn = 125

const usage = `xvrun runs a program under dynamic binary translation.

usage: xvrun [flags] [--] program [argument ...]

flags:
  -v         trace translation and system calls, on standard error
  -trap-print
             print the registers at each fault of the program (SIGSEGV, SIGBUS,
             SIGILL, SIGFPE, SIGTRAP), on standard error; then it takes its course
  -stats     print counters when the program has ended, on standard error
  -relocate-every D
             move all of xv in the program's memory to another address each
             time that the program has run for D, as 1ms or 2s: a test of xv
  -store DIR keep translations in DIR for later runs, "" for nowhere (default:
             xvrun in $XDG_CACHE_HOME or ~/.cache)
  -high-images
             place the program's code and libraries above 4 GiB, for programs
             that need the memory below 2 GiB for themselves; slower
  -returns transparent|native|auto
             what calls leave on the stacks: the program's own return addresses
             (default), those of the translated code, which is faster, or those
             until the program reads return addresses
  -far-region
             place xv's own code and data far above 4 GiB, instead of only where
             the program leaves no room for them below 2 GiB
  -no-tables
             do without lookup tables in the program's memory from the start,
             instead of when it wants memory at their place; slower
  -o FILE    write the trace, the faults and the counters to FILE instead
  -version   print the version
  -h         print this text

examples:
  xvrun ls -l /
  xvrun -stats python3 -c 'print(sum(range(1000)))'
  xvrun -v -o trace.txt ./program
  xvrun -trap-print ./program
  xvrun -- ./-odd-name

The exit status is the program's; if a signal kills the program, xvrun dies by
the same signal. xvrun's own failures are 125, a program that cannot be executed
is 126, one that is not found 127.

Daemons and background jobs that the program leaves behind go on, served by a
process "xvrun: supervisor". If xvrun is killed before the program has ended, the
program and all that it started die.
`

// options are what the command line asks for.
type options struct {
	verbose, stats, trapPrint, highImages, farRegion, noTables, version, help bool

	output, store string
	returns       xv.Returns
	relocateEvery time.Duration
	program       []string
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("xvrun", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.BoolVar(&o.verbose, "v", false, "")
	f.BoolVar(&o.stats, "stats", false, "")
	f.BoolVar(&o.trapPrint, "trap-print", false, "")
	f.DurationVar(&o.relocateEvery, "relocate-every", 0, "")
	f.BoolVar(&o.highImages, "high-images", false, "")
	f.TextVar(&o.returns, "returns", xv.TransparentReturns, "")
	f.BoolVar(&o.farRegion, "far-region", false, "")
	f.BoolVar(&o.noTables, "no-tables", false, "")
	f.BoolVar(&o.version, "version", false, "")
	f.StringVar(&o.output, "o", "", "")
	f.StringVar(&o.store, "store", defaultStore(), "")
	err := f.Parse(args)
	o.program = f.Args()
	switch {
	case errors.Is(err, flag.ErrHelp):
		o.help = true
	case err != nil:
		return nil, fmt.Errorf("%w (xvrun -h explains)", err)
	case o.output != "" && !o.verbose && !o.stats && !o.trapPrint:
		return nil, errors.New("-o without -v, -trap-print or -stats has nothing to write")
	case o.relocateEvery < 0:
		return nil, fmt.Errorf("-relocate-every %v: no duration", o.relocateEvery)
	case !o.version && len(o.program) == 0:
		return nil, errors.New("no program given (xvrun -h explains)")
	}
	return o, nil
}

func main() {
	// The first collection at 16 MiB instead of 4: most runs end before.
	debug.SetGCPercent(400)
	// The scheduler counts a server that sleeps on its doorbell as running for a while: one for each CPU.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	if os.Args[0] == supervisor {
		supervise()
		return
	}
	finish(run(os.Args[1:]))
}

// defaultStore is the directory of translations, "" if the user has no place for such.
func defaultStore() string {
	dir, err := os.UserCacheDir()
	if err != nil || !ownPlace(dir) {
		return ""
	}
	return filepath.Join(dir, "xvrun")
}

// outcome is how xvrun ends: with a status, or by a signal.
type outcome struct {
	status int
	state  *xv.ProcessState // of a guest that ended; nil: status counts
}

// run does everything but end the process, so that deferred calls are made.
func run(args []string) (end outcome) {
	defer func() {
		if r := recover(); r != nil {
			end = fail(fmt.Errorf("internal error: %v", r))
		}
	}()
	inherited, err := inherit() // before anything opens a file or handles a signal
	if err != nil {
		return fail(err)
	}
	o, err := parse(args)
	if err != nil {
		return fail(err)
	}
	switch {
	case o.help:
		return show(usage)
	case o.version:
		return show("xvrun " + version() + "\n")
	}
	report := &report{File: os.Stderr}
	if o.output != "" {
		if report.File, err = os.Create(o.output); err != nil {
			return fail(err)
		}
		defer report.close()
	}

	if o.verbose || o.trapPrint || o.stats {
		bearBrokenPipes()
	}
	cmd := xv.Command(o.program[0], o.program[1:]...)
	if errors.Is(cmd.Err, exec.ErrDot) {
		cmd.Err = nil // execvp honours a "." in PATH
	}
	inherited.pass(cmd)
	cmd.Options.StoreDir, cmd.Options.HighImages, cmd.Options.FarRegion, cmd.Options.Returns = o.store, o.highImages, o.farRegion, o.returns
	cmd.Options.NoTables = o.noTables
	cmd.OnWarning = warn
	if o.verbose {
		cmd.Trace = report.File // what outlives the program goes on with it
	}
	if o.trapPrint {
		cmd.OnFault(trap.Filter{}, trapPrinter(report))
	}
	m := newMirror(cmd)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	inherited.release()
	m.follow()
	if o.relocateEvery > 0 {
		defer relocateEvery(cmd.Process, o.relocateEvery)()
	}
	err = cmd.Wait()
	if _, ended := errors.AsType[*xv.ExitError](err); err != nil && !ended {
		return fail(fmt.Errorf("%q: %w", o.program[0], err))
	}
	if m.hungUp() {
		cmd.Process.KillAll()
	}
	leave(cmd.Process)
	if o.stats {
		printStats(report, cmd.Process.Stats())
	}
	return outcome{state: cmd.ProcessState}
}

// fail reports an error in one line and gives its exit status.
func fail(err error) outcome {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	bearBrokenPipes()
	fmt.Fprintf(os.Stderr, "xvrun: %s\n", text)
	e, ok := errors.AsType[*loader.Error](err)
	switch {
	case !ok:
		return outcome{status: exitOwn}
	case e.ExitStatus == 0:
		return outcome{status: loader.ExitCannotExecute}
	}
	return outcome{status: e.ExitStatus}
}

// warn tells the user something that doesn't change how xvrun ends.
func warn(text string) {
	bearBrokenPipes()
	fmt.Fprintf(os.Stderr, "xvrun: warning: %s\n", text)
}

func show(text string) outcome {
	if _, err := io.WriteString(os.Stdout, text); err != nil {
		return fail(err)
	}
	return outcome{}
}

// version is that of the module, or the revision that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v += " " + s.Value
		}
	}
	return v + " " + info.GoVersion
}

func printStats(w io.Writer, s xv.Stats) {
	for _, line := range []struct {
		name  string
		value any
	}{
		{"regions translated", s.Regions},
		{"instructions in them", s.Instructions},
		{"instructions restored", s.Restored},
		{"cache bytes", s.CacheBytes},
		{"cache collections", s.Collections},
		{"regions kept", s.Kept},
		{"misses: direct branches", s.LinkMisses},
		{"misses: jumps and returns", s.JumpMisses},
		{"misses: calls", s.CallMisses},
		{"hand-offs", s.Handoffs},
		{"traps", s.Traps},
		{"system calls handled", s.SystemCalls},
		{"time in translation", s.TranslationTime},
		{"processes", s.Processes},
		{"threads", s.Threads},
	} {
		fmt.Fprintf(w, "%-26s %v\n", line.name, line.value)
	}
}
