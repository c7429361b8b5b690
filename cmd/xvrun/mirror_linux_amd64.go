package main

import (
	"bytes"
	"errors"
	"math"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"xvrun/xv"
)

// mirror makes xvrun look to its parent as the program does: signals sent to
// xvrun reach the program, and what stops or ends the program stops or ends
// xvrun.
//
// The program is in xvrun's process group, so the terminal's signals reach it
// without help; only those that somebody sends to xvrun itself are passed on.
// The kernel tells them apart in si_code, which package os/signal drops, so
// the signals of the terminal get a handler that notes it down first.
type mirror struct {
	cmd     *xv.Cmd
	signals chan os.Signal
	held    [lastSignal + 1]sigaction // what holdSignal stands in for
	hangup  atomic.Int64              // when SIGHUP came last, nanoseconds since 1970
	leads   bool                      // xvrun leads the session of a terminal
}

// holdFor is how long after the start of the program signals are only held. Package os/signal takes several switches between
// threads for each signal that it is told of, which together are longer than the run of a small program.
const holdFor = 50 * time.Millisecond

// fromTerminal are the signals that a terminal generates for a process group.
var fromTerminal = []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU}

// mirrored returns the signals that the program gets when xvrun does, besides those which nobody can handle.
func mirrored() []syscall.Signal {
	list := append([]syscall.Signal{
		syscall.SIGHUP, syscall.SIGTERM, syscall.SIGCONT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGIO, syscall.SIGPWR,
	}, fromTerminal...)
	for n := 34; n <= lastSignal; n++ { // the C libraries' real-time signals
		list = append(list, syscall.Signal(n))
	}
	return list
}

// newMirror holds signals from now on: they are noted, and do nothing. Call follow when the program runs.
func newMirror(cmd *xv.Cmd) *mirror {
	m := &mirror{cmd: cmd, signals: make(chan os.Signal, 64)}
	cmd.OnStop = m.stopSelf
	if sid, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0); int(sid) == syscall.Getpid() {
		m.leads = hasTerminal()
	}
	var act sigaction
	setAction(syscall.SIGSEGV, nil, &act) // the runtime's; but for the handler the same for all signals
	runtimeHandler = act.handler
	act.handler = holdSignalAddr()
	for _, s := range mirrored() {
		origins[s], heldCodes[s] = noOrigin, noOrigin
		setAction(s, &act, &m.held[s])
	}
	return m
}

// hasTerminal reports whether the session has a terminal, which it loses by a hang-up (tty(4)).
func hasTerminal() bool {
	fd, err := syscall.Open("/dev/tty", syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	syscall.Close(fd)
	return true
}

// bearBrokenPipes keeps writes into a broken pipe on standard output or standard error from ending xvrun.
var bearBrokenPipes = sync.OnceFunc(func() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) })

// follow passes signals on, from soon on, until the process ends.
func (m *mirror) follow() {
	time.AfterFunc(holdFor, func() {
		m.unhold()
		for s := range m.signals {
			m.take(s.(syscall.Signal))
		}
	})
}

// unhold leaves signals to package os/signal, and passes those on that were held. One that holdSignal has begun with, but not noted yet,
// is found here, or holdSignal sees that it is released: no signal is lost, and none is passed on twice.
func (m *mirror) unhold() {
	for _, s := range mirrored() {
		signal.Notify(m.signals, s)
		act := m.held[s]
		if act.handler <= sigIgn { // package runtime has just set its handler
			setAction(s, nil, &act)
		}
		if s == syscall.SIGCONT || slices.Contains(fromTerminal, s) {
			act.handler = noteSignalAddr()
		}
		setAction(s, &act, nil)
	}
	atomic.StoreInt32(&released, 1)
	for _, s := range mirrored() {
		code := atomic.LoadInt32(&heldCodes[s])
		if code == noOrigin {
			continue
		}
		atomic.StoreInt32(&origins[s], code) // first: stopSelf looks at both
		if atomic.SwapInt32(&heldCodes[s], noOrigin) != noOrigin {
			m.take(s)
		}
	}
}

func (m *mirror) take(sig syscall.Signal) {
	switch sig {
	case syscall.SIGHUP:
		m.hangup.Store(time.Now().UnixNano())
	case syscall.SIGCONT:
		// A shell continues the whole group. Only a program in another group,
		// such as a job-control shell, is still stopped now.
		if !stopped(m.cmd.Process.Pid) {
			return
		}
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		if sentByKernel(sig) && alive(m.cmd) {
			return
		}
	}
	err := m.cmd.Process.Signal(sig)
	if !errors.Is(err, os.ErrProcessDone) {
		return
	}
	switch sig {
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM:
		// The program has ended and xvrun waits for its descendants.
		m.cmd.Process.KillAll()
	}
}

// hungUp reports whether the terminal was hung up as the program ended. The kernel tells only the session
// leader, which is xvrun: a shell that finds the end of its input first doesn't tell its jobs. That may be before the signal
// was seen here.
func (m *mirror) hungUp() bool {
	held := atomic.LoadInt32(&heldCodes[syscall.SIGHUP]) != noOrigin
	return m.leads && !hasTerminal() || held || time.Since(time.Unix(0, m.hangup.Load())) < time.Second
}

// alive reports whether the program itself still runs; descendants may outlive it.
func alive(cmd *xv.Cmd) bool {
	return !errors.Is(cmd.Process.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// stopped reports whether a process is stopped (proc_pid_stat(5): state T).
func stopped(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	end := bytes.LastIndex(text, []byte(") "))
	return end >= 0 && len(text) > end+2 && text[end+2] == 'T'
}

// sigaction is the kernel's struct (rt_sigaction(2)).
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const sigDfl = 0 // SIG_DFL

func setAction(sig syscall.Signal, act, old *sigaction) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(act.mask), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// stopSelf stops xvrun as the program was stopped, so that a shell sees the
// same status, and returns when xvrun was continued.
//
// The terminal has sent the signal to xvrun as well. While the action is the
// default one that may stop xvrun before raise does, which must not stop it
// again when it was continued. And raise has been seen to stop nothing, on a
// loaded machine: then the program would be stopped without its shell knowing.
func (m *mirror) stopSelf(sig syscall.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	atomic.StoreInt32(&heldCodes[syscall.SIGCONT], noOrigin)
	atomic.StoreInt32(&origins[syscall.SIGCONT], noOrigin)
	var old sigaction
	restore := sig != syscall.SIGSTOP && setAction(sig, &sigaction{handler: sigDfl}, &old) == nil
	for try := 0; try < stopTries && !m.continued(try); try++ {
		raise(sig)
	}
	if restore {
		setAction(sig, &old, nil)
	}
}

// stopTries is how often stopSelf raises the signal; stopWait is how long it may
// take until another thread has noted the SIGCONT that let this one go on, for each.
const (
	stopTries = 3
	stopWait  = 5 * time.Millisecond
)

// continued reports whether xvrun or the program was continued since the notes of SIGCONT were cleared.
func (m *mirror) continued(raised int) bool {
	for end := time.Now().Add(time.Duration(raised) * stopWait); ; time.Sleep(time.Millisecond) {
		noted := atomic.LoadInt32(&heldCodes[syscall.SIGCONT]) != noOrigin || atomic.LoadInt32(&origins[syscall.SIGCONT]) != noOrigin
		if noted || !stopped(m.cmd.Process.Pid) {
			return true
		}
		if !time.Now().Before(end) {
			return false
		}
	}
}

// raise sends a signal to the calling thread, for which it is delivered before
// the system call returns.
func raise(sig syscall.Signal) {
	syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(syscall.Gettid()), uintptr(sig))
}

// finish ends xvrun as the program ended.
func finish(end outcome) {
	if end.state == nil {
		os.Exit(end.status)
	}
	if !end.state.Signaled() {
		os.Exit(end.state.ExitCode())
	}
	dieBy(end.state.Signal())
}

// dieBy ends xvrun by a signal. A core file of xvrun would be of no use, and
// would replace that of the program: the limit prevents a file, and the
// attribute also a dump into a pipe (core(5)).
func dieBy(sig syscall.Signal) {
	runtime.LockOSThread()
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0)
	setAction(sig, &sigaction{handler: sigDfl}, nil)
	const sigUnblock = 1 // SIG_UNBLOCK
	set := uint64(1) << (sig - 1)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigUnblock, uintptr(unsafe.Pointer(&set)), 0, unsafe.Sizeof(set), 0, 0)
	raise(sig)
	time.Sleep(time.Second) // SIGKILL may take until the next scheduling point
	os.Exit(128 + int(sig)) // as a shell reports it
}

// origins and runtimeHandler belong to noteSignal: the si_code of the last
// signal of each number, and the runtime's handler. heldCodes are the si_codes of the signals
// that holdSignal holds; released says that it is no longer to hold any.
var (
	origins        [lastSignal + 1]int32
	runtimeHandler uintptr
	heldCodes      [lastSignal + 1]int32
	released       int32
)

// noteSignalAddr and holdSignalAddr return the addresses of noteSignal and holdSignal.
func noteSignalAddr() uintptr
func holdSignalAddr() uintptr

// noOrigin is the entry in origins of a signal that has not arrived yet. It is
// no si_code.
const noOrigin = math.MinInt32

// sentByKernel reports whether the last signal came from the kernel, which
// means from the terminal, and not from a process (sigaction(2), SI_KERNEL).
func sentByKernel(sig syscall.Signal) bool {
	const siKernel = 0x80
	return atomic.LoadInt32(&origins[sig]) == siKernel
}
