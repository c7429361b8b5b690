//go:build !plan9

package xv

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"xvrun/xv/trap"
	"xvrun/xv/virt"
)

// Stats counts what was done for a guest so far.
type Stats = virt.Stats

// Limit is a resource limit of a program.
type Limit = virt.Limit

// session is what virt.Start returns.
type session interface {
	Pid() int
	Wait() (virt.Status, error)
	Gone() <-chan struct{}
	HandOver(program string, argv []string) error
	Signal(sig syscall.Signal) error
	SetStopHandler(f func(sig syscall.Signal))
	Stats() virt.Stats
	Close() error

	Watch(pid int, addr, length uint64, access trap.Access, f func(*trap.Context) trap.Action, loose bool) (virt.PageTool, error)
	Page(pid int, addr, length uint64, fill func(pid int, page uint64, b []byte) error) (virt.PageTool, error)
	TrackDirty(pid int, addr, length uint64) (virt.PageTool, error)

	Relocate(ctx context.Context, r virt.Relocation) ([]virt.Relocated, error)
}

// Process is a running guest: its first process and all descendants.
type Process struct {
	Pid int // of the first process

	s     session
	wait  func() (*ProcessState, error)
	close func() error
}

func newProcess(s session) *Process {
	p := &Process{Pid: s.Pid(), s: s, close: sync.OnceValue(s.Close)}
	p.wait = sync.OnceValues(p.await)
	go func() {
		<-s.Gone()
		time.AfterFunc(lingering, func() { p.close() })
	}()
	return p
}

// lingering is how long the memory of a guest is kept after its end: a host program that ends then as well leaves it to the
// kernel, instead of sharing its last processor time with what frees it.
const lingering = 20 * time.Millisecond

func (p *Process) await() (*ProcessState, error) {
	st, err := p.s.Wait()
	if err != nil {
		err = fmt.Errorf("xv: process %d: %w", p.Pid, err)
	}
	return &ProcessState{pid: p.Pid, status: st.WaitStatus, usage: st.Rusage}, err
}

// Wait waits for the first process to end. The error tells that the guest
// could not be served any further and was killed. Wait may be called by several
// goroutines.
func (p *Process) Wait() (*ProcessState, error) { return p.wait() }

// WaitAll waits until no process of the guest is left, or they were handed
// over.
func (p *Process) WaitAll() { <-p.Gone() }

// Gone returns a channel that is closed when WaitAll returns.
func (p *Process) Gone() <-chan struct{} { return p.s.Gone() }

// HandOver gives the processes that have outlived the first one to another
// supervisor: it executes program with argv, in a session of its own and with
// the null device as its standard descriptors, and that program has to call
// TakeOver. HandOver waits for the end of the first process, and returns when
// the guest is served by the new process; this one may then end without ending
// the guest, and WaitAll returns. After an error everything is as before, and
// the call can be repeated: a thread of the guest may be stopped, or the kernel
// may not allow it (kernel.yama.ptrace_scope). The error is os.ErrProcessDone
// if no process is left.
//
// A Trace that is an *os.File goes on in the new process, any other ends.
func (p *Process) HandOver(program string, argv ...string) error {
	return p.s.HandOver(program, argv)
}

// TakeOver serves the guest that another process has handed over by executing
// this one, and returns when no process of it is left.
func TakeOver() error { return takeOver() }

// Signal sends a signal to the first process. After its end the error is
// os.ErrProcessDone.
func (p *Process) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("xv: signal %v is not a syscall.Signal", sig)
	}
	return p.s.Signal(n)
}

// Kill kills the first process.
func (p *Process) Kill() error { return p.Signal(os.Kill) }

// KillAll kills every process of the guest.
func (p *Process) KillAll() error { return p.close() }

// Stats returns the counters of the guest.
func (p *Process) Stats() Stats { return p.s.Stats() }

// ProcessState tells how the first process of a guest ended.
type ProcessState struct {
	pid    int
	status syscall.WaitStatus
	usage  *syscall.Rusage
}

// Pid returns the process id that the process had.
func (s *ProcessState) Pid() int { return s.pid }

// Exited reports whether the process ended by exit.
func (s *ProcessState) Exited() bool { return s.status.Exited() }

// Success reports whether the process exited with status 0.
func (s *ProcessState) Success() bool { return s.Exited() && s.status.ExitStatus() == 0 }

// ExitCode returns the exit status, or -1 if a signal killed the process.
func (s *ProcessState) ExitCode() int {
	if s == nil || !s.Exited() {
		return -1
	}
	return s.status.ExitStatus()
}

// Signaled reports whether a signal killed the process.
func (s *ProcessState) Signaled() bool { return s.status.Signaled() }

// Signal returns the signal that killed the process, or 0.
func (s *ProcessState) Signal() syscall.Signal {
	if !s.Signaled() {
		return 0
	}
	return s.status.Signal()
}

// Sys returns the status as wait4(2) gives it, a syscall.WaitStatus.
func (s *ProcessState) Sys() any { return s.status }

// SysUsage returns the resources used, a *syscall.Rusage.
func (s *ProcessState) SysUsage() any { return s.usage }

// UserTime returns the processor time spent in the program.
func (s *ProcessState) UserTime() time.Duration {
	user, _ := cpuTime(s.usage)
	return user
}

// SystemTime returns the processor time that the kernel spent for the program.
func (s *ProcessState) SystemTime() time.Duration {
	_, system := cpuTime(s.usage)
	return system
}

func (s *ProcessState) String() string {
	switch {
	case s == nil:
		return "<nil>"
	case s.Exited():
		return fmt.Sprintf("exit status %d", s.status.ExitStatus())
	case s.Signaled() && s.status.CoreDump():
		return "signal: " + s.Signal().String() + " (core dumped)"
	case s.Signaled():
		return "signal: " + s.Signal().String()
	}
	return fmt.Sprintf("wait status %v", s.status)
}

// ExitError is a program that ran and did not exit with status 0.
type ExitError struct {
	*ProcessState

	// Stderr is what the program wrote to standard error, if Output ran it and
	// Cmd.Stderr was nil.
	Stderr []byte
}

func (e *ExitError) Error() string { return e.ProcessState.String() }
