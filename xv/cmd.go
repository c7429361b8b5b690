//go:build !plan9

package xv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"xvrun/xv/virt"
)

// Options tune the translator. The zero value is the default.
type Options struct {
	CacheSize int // bound on the translation cache in bytes; 0: the largest

	// StoreDir is a directory in which translations are kept for later runs. It
	// is made if needed, with access for the user only; one that others may write to is
	// not used. Whoever can write to it decides what guests execute. "": none are
	// kept.
	StoreDir string

	// HighImages has the program's code and libraries placed above 4 GiB instead of below 1 GiB, for programs that
	// take memory at low addresses without asking (MAP_FIXED). They run slower so, and their translations are not kept.
	HighImages bool

	// FarRegion has xv's own code and data placed far above 4 GiB instead of below 2 GiB. That is where they go anyway if the
	// program leaves no room; Process.Relocate can move them too.
	FarRegion bool

	// NoTables has xv find the targets of indirect branches without tables in the program's memory, which otherwise go when the program maps
	// memory where they are: between 2 and 16 GiB, and at eight times the address of code that is elsewhere. Such branches and system calls
	// are slower then, and translations are not kept.
	NoTables bool

	// Returns says what the program's calls leave on its stacks.
	Returns Returns
}

// Returns says what return addresses the calls of a guest leave on its stacks.
type Returns = virt.Returns

// The values of Returns. NativeReturns is for programs that are trusted, and that do nothing with return addresses but return to them: what unwinds
// or walks stacks (exceptions, garbage collectors, Go) fails, see docs/supported.md. AutoReturns is for all; it takes effect for programs
// that probably don't.
const (
	TransparentReturns = virt.TransparentReturns
	NativeReturns      = virt.NativeReturns
	AutoReturns        = virt.AutoReturns
)

// Cmd is a program to run, or that runs, under translation. Like an exec.Cmd
// it cannot be used again once it was started.
type Cmd struct {
	// Path is the file to execute. A relative path counts from Dir.
	Path string

	// Args are the arguments, the program's name first. Empty: {Path}.
	Args []string

	// Env is the environment as "key=value" strings, passed on as it is.
	// nil: that of the calling process.
	Env []string

	// Dir is the working directory of the program. "": the caller's.
	Dir string

	// Stdin, Stdout and Stderr connect the standard descriptors. An *os.File
	// becomes the guest's descriptor itself; for other values a pipe and a
	// goroutine that copies stand between; nil is the null device, and a nil
	// *os.File is a descriptor that is closed. Stdout and Stderr that are equal
	// share one descriptor.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// ExtraFiles are further open files; entry i becomes descriptor 3+i.
	// A nil entry is a descriptor that is closed.
	ExtraFiles []*os.File

	// Ignore lists the signals that the program starts out ignoring.
	Ignore []syscall.Signal

	// Limits are resource limits of the program (getrlimit(2)). The others are
	// the caller's. A limit of the address space counts only memory of the
	// program itself.
	Limits []Limit

	// Setpgid makes the program lead a process group of its own. Otherwise it
	// is in the caller's.
	Setpgid bool

	// OnStop is called when the program was stopped by a signal; SIGCONT
	// continues it. Calls come from another goroutine, one at a time.
	OnStop func(sig syscall.Signal)

	// OnWarning is called with what will not be as in a native run: a program
	// that the guest executes runs without the rights of its set-user-ID bit; and,
	// once, with the error of a write to Trace. It is one line for the user. Calls come from other goroutines, one at a time,
	// also while Start runs.
	OnWarning func(text string)

	// Trace receives a line for each system call and each translated region.
	Trace io.Writer

	// Options tune the translator.
	Options Options

	// Process is the running guest, after Start.
	Process *Process

	// ProcessState is how the program ended, after Wait or Run.
	ProcessState *ProcessState

	// Err is what Command found wrong with the name; Start returns it.
	Err error

	// Cancel is called when the context of CommandContext is done. The default
	// kills every process of the guest.
	Cancel func() error

	// WaitDelay bounds how long Wait waits for the copying goroutines once the
	// program has ended, or the context is done. 0: without bound.
	WaitDelay time.Duration

	faults   []faultHandler
	begun    chan struct{} // closed when Process is set
	ctx      context.Context
	stdio    stdio
	exited   chan struct{} // closed when the program has ended
	watching chan error    // delivers the outcome of watching ctx
	waited   bool
	capture  *bytes.Buffer // standard error, for ExitError
}

// Command returns a Cmd that runs the named program. A name without a slash is
// looked up in the directories of PATH, as exec.Command does.
func Command(name string, args ...string) *Cmd {
	c := &Cmd{Path: name, Args: append([]string{name}, args...)}
	if name != "" && filepath.Base(name) == name && !strings.ContainsRune(name, filepath.Separator) {
		path, err := lookPath(name)
		if path != "" {
			c.Path = path
		}
		c.Err = err
	}
	return c
}

// CommandContext is like Command; the guest is killed when ctx is done before
// the program has ended by itself.
func CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	if ctx == nil {
		panic("xv: nil Context")
	}
	c := Command(name, args...)
	c.ctx = ctx
	c.Cancel = func() error { return c.Process.KillAll() }
	return c
}

// String returns the path and the arguments, for people to read.
func (c *Cmd) String() string {
	if len(c.Args) == 0 {
		return c.Path
	}
	return strings.Join(append([]string{c.Path}, c.Args[1:]...), " ")
}

// Environ returns the environment that the program gets.
func (c *Cmd) Environ() []string {
	if c.Env != nil {
		return c.Env
	}
	env := os.Environ()
	if c.Dir == "" {
		return env
	}
	// As os/exec: a shell that finds PWD right keeps a directory's symbolic name.
	if dir, err := filepath.Abs(c.Dir); err == nil {
		env = append(without(env, "PWD="), "PWD="+dir)
	}
	return env
}

func without(env []string, prefix string) []string {
	kept := env[:0]
	for _, e := range env {
		if !strings.HasPrefix(e, prefix) {
			kept = append(kept, e)
		}
	}
	return kept
}

// Start starts the program and returns when the kernel has executed it. A file
// that cannot be executed gives a *loader.Error.
func (c *Cmd) Start() error {
	if c.Process != nil {
		return errors.New("xv: already started")
	}
	if err := c.startable(); err != nil {
		c.stdio.closeAll()
		return err
	}
	files, err := c.stdio.open(c)
	if err != nil {
		c.stdio.closeAll()
		return err
	}
	argv := c.Args
	if len(argv) == 0 {
		argv = []string{c.Path}
	}
	c.begun = make(chan struct{})
	s, err := start(&virt.Config{
		Path: c.Path, Argv: argv, Env: c.Environ(), Dir: c.Dir, Files: files,
		Trace: c.Trace, Warn: c.OnWarning, CacheSize: c.Options.CacheSize, StoreDir: c.Options.StoreDir, HighImages: c.Options.HighImages, FarRegion: c.Options.FarRegion, NoTables: c.Options.NoTables, Returns: c.Options.Returns,
		Ignored: c.Ignore, Limits: c.Limits, Setpgid: c.Setpgid,
		OnFault: c.faultHandler(),
	})
	if err != nil {
		c.stdio.closeAll()
		return err
	}
	c.stdio.started()
	c.Process = newProcess(s)
	close(c.begun)
	if c.OnStop != nil { // which may be called at once, and may use c.Process
		s.SetStopHandler(c.OnStop)
	}
	c.watch()
	return nil
}

func (c *Cmd) startable() error {
	if c.Err != nil {
		return c.Err
	}
	if c.Path == "" && len(c.Args) == 0 {
		return errors.New("xv: no command")
	}
	if c.Cancel != nil && c.ctx == nil {
		return errors.New("xv: Cancel without a context")
	}
	if c.ctx != nil {
		return c.ctx.Err()
	}
	return nil
}

// watch calls Cancel when the context is done first.
func (c *Cmd) watch() {
	if c.ctx == nil || c.ctx.Done() == nil {
		return
	}
	c.exited, c.watching = make(chan struct{}), make(chan error, 1)
	go func() {
		select {
		case <-c.exited:
			c.watching <- nil
		case <-c.ctx.Done():
			err := c.ctx.Err()
			if c.Cancel != nil {
				if failed := c.Cancel(); errors.Is(failed, os.ErrProcessDone) {
					err = nil
				} else if failed != nil {
					err = failed
				}
			}
			c.watching <- err
		}
	}()
}

// Run starts the program and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Wait waits for the program to end and for its output to be copied. A status
// other than 0 is an *ExitError. Descendants that outlive the program go on
// running; Process.WaitAll waits for them.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return errors.New("xv: not started")
	}
	if c.waited {
		return errors.New("xv: Wait was already called")
	}
	c.waited = true
	state, err := c.Process.Wait()
	c.ProcessState = state
	if c.watching != nil {
		close(c.exited)
		if cause := <-c.watching; cause != nil && err == nil {
			err = cause
		}
	}
	copied := c.stdio.finish(c.WaitDelay)
	switch {
	case err != nil:
		return err
	case !state.Success():
		return &ExitError{ProcessState: state, Stderr: c.captured()}
	}
	return copied
}

// Output runs the program and returns its standard output. If Stderr is nil,
// an *ExitError holds what the program wrote there.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("xv: Stdout already set")
	}
	var out bytes.Buffer
	c.Stdout = &out
	if c.Stderr == nil {
		c.capture = &bytes.Buffer{}
		c.Stderr = c.capture
	}
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the program and returns its standard output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("xv: Stdout or Stderr already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

func (c *Cmd) captured() []byte {
	if c.capture == nil {
		return nil
	}
	return c.capture.Bytes()
}

// ErrWaitDelay is returned by Wait when WaitDelay ran out before all output
// was copied.
var ErrWaitDelay = exec.ErrWaitDelay
