//go:build linux && amd64

package virt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/store"
)

// Session is a guest: the process that was started, its descendants, and what serves them.
type Session struct {
	cfg        Config
	agent      *shared
	contexts   *shared
	store      *store.Store
	bells      []*bell
	reaper     *reaper
	nothing    passNothing
	togglePool togglePool
	started    time.Time

	mu        sync.Mutex
	slots     [abi.MaxSlots + 1]*thread // from 1; nil: free
	free      []int                     // released slots, to be used again
	nextSlot  int
	processes map[int]*process     // by pid
	births    map[*process]*thread // processes that are being made, with their first thread
	first     *process
	left      []*codeSpace // of the last process
	stop      func(syscall.Signal)
	stoppedBy syscall.Signal // before there was stop
	failure   error          // what the supervisor could not do; the guest was killed for it

	settling sync.Mutex // see settle
	handing  sync.Mutex // held by HandOver and Close
	closed   atomic.Bool
	draining atomic.Bool   // see drain
	resting  atomic.Bool   // the servers end although there are processes
	untied   atomic.Bool   // the first process does not get a signal when this one dies
	ended    chan struct{} // closed when the first process was reaped
	gone     chan struct{} // closed when ended is and no process is left
	status   Status
	counters counters

	mayLack   atomic.Bool   // pages of guests may be absent, see userfaultfd
	xfeatures atomic.Uint64 // components of the extended state in signal frames, as the kernel says
	traceMu   sync.Mutex
	traceLost bool // a write to Config.Trace has failed; guarded by traceMu
	deaths    *deathWatch
}

// Start executes cfg.Path as a guest. It returns when the kernel has executed the file, or with the
// reason why it couldn't.
func Start(cfg *Config) (*Session, error) {
	info, err := loader.Origin{Dir: cfg.Dir}.Check(cfg.Path)
	if err != nil {
		return nil, err
	}
	s := newSession(cfg)
	if err := s.open(); err != nil {
		s.release()
		return nil, err
	}
	s.warnPrivilege(info, "/proc/self/status")
	result := make(chan error, 1)
	onOwnThread(func() { s.runFirst(result) })
	s.startServers()
	s.readAhead()
	if err := <-result; err != nil {
		s.closed.Store(true)
		s.ringAll()
		s.release()
		return nil, err
	}
	time.AfterFunc(reaperAfter, s.reaper.start)
	return s, nil
}

// reaperAfter is how long the first process of a guest is left to PR_SET_PDEATHSIG alone, which it loses when its
// credentials change.
const reaperAfter = 50 * time.Millisecond

func newSession(cfg *Config) *Session {
	return &Session{
		cfg: *cfg, processes: map[int]*process{}, births: map[*process]*thread{}, nextSlot: 1,
		ended: make(chan struct{}), gone: make(chan struct{}), started: time.Now(),
	}
}

// open makes the shared memory.
func (s *Session) open() error {
	// Guests are looked at and reached by /proc.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return errors.New("/proc must be the proc file system of xv's own PID namespace (mount -t proc proc /proc)")
	}
	var err error
	if s.store, err = store.Open(s.cfg.StoreDir, s.cfg.Returns.variant()); err != nil {
		s.trace("translations are not kept: %v", err)
	}
	if s.agent, err = newShared("xv-agent", abi.AgentSize, true); err != nil {
		return err
	}
	if err = agent.Install(s.agent.view, s.passes); err != nil {
		return err
	}
	if s.contexts, err = newShared("xv-contexts", abi.ContextsSize, false); err != nil {
		return err
	}
	if s.deaths, err = newDeathWatch(s); err != nil {
		return err
	}
	if s.reaper, err = newReaper(s.contexts); err != nil {
		return err
	}
	return s.hangBells()
}

// release frees what open made. The servers must have nothing left to serve. The memory goes after the
// return: unmapping interrupts the processors that run this process, and a command that exits now need
// not wait for it.
func (s *Session) release() {
	s.reaper.stop()
	s.deaths.close()
	go func() {
		for _, b := range s.bells {
			b.servers.Wait()
		}
		if s.agent != nil {
			s.agent.close()
		}
		if s.contexts != nil {
			s.contexts.close()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.left {
			c.close()
		}
	}()
}

// Pid is the process id of the first process.
func (s *Session) Pid() int { return s.first.pid }

// Signal sends sig to the first process.
func (s *Session) Signal(sig syscall.Signal) error {
	if isClosed(s.ended) {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(s.first.pidfd, sig, nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return err
}

// SetStopHandler makes f be called when the first process is stopped by a signal.
func (s *Session) SetStopHandler(f func(sig syscall.Signal)) {
	s.mu.Lock()
	s.stop = f
	before := s.stoppedBy
	s.mu.Unlock()
	if before != 0 {
		f(before)
	}
}

// Wait waits for the end of the first process. The error says that the supervisor had to end it.
func (s *Session) Wait() (Status, error) {
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.failure
}

// Close kills what is left of the guest and frees what the session holds. Processes that outlive the
// first one are served until then.
func (s *Session) Close() error {
	s.handing.Lock()
	defer s.handing.Unlock()
	if s.closed.Swap(true) {
		return nil
	}
	for {
		alive := s.alive()
		if len(alive) == 0 {
			break
		}
		for _, p := range alive {
			unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		}
		time.Sleep(time.Millisecond)
	}
	<-s.ended
	s.abandon()
	s.ringAll()
	s.release()
	return nil
}

// Gone returns a channel that is closed when no process of the guest is left: descendants may outlive the first process.
func (s *Session) Gone() <-chan struct{} { return s.gone }

// fewer is called, with mu held, when processes or births have become fewer, or the first process was reaped.
func (s *Session) fewer() {
	if len(s.processes) > 0 || len(s.births) > 0 || isClosed(s.gone) || !isClosed(s.ended) {
		return
	}
	close(s.gone)
}

// isClosed reports whether a channel, on which nothing is sent, is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// abandon ends the threads that wait for an answer that will not come: those of a process that nobody
// knows yet.
func (s *Session) abandon() {
	word32(s.contexts.view, abi.Dead).Store(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, th := range s.slots[:s.nextSlot] {
		if th != nil {
			futexWake(word32(th.ctx.mem, abi.State))
		}
	}
}

func (s *Session) alive() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*process
	for _, p := range s.processes {
		if !p.dead.Load() {
			list = append(list, p)
		}
	}
	return list
}

// fail ends the guest because the supervisor cannot go on with p; the first reason is kept. It is no failure
// that what p was asked for can't be done because p is being killed.
func (s *Session) fail(p *process, err error) {
	if p != nil && p.ends() {
		s.trace("%d: ended meanwhile: %v", p.pid, err)
		return
	}
	s.abort(p, err)
}

// abort ends the guest, whatever became of p.
func (s *Session) abort(p *process, err error) {
	s.mu.Lock()
	if s.failure == nil {
		s.failure = err
	}
	s.mu.Unlock()
	s.trace("fatal: %v", err)
	if p != nil {
		unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
	}
	if s.first != nil && p != s.first {
		unix.PidfdSendSignal(s.first.pidfd, unix.SIGKILL, nil, 0)
	}
}

// guard ends the guest instead of the host program when a goroutine of the session panics.
func (s *Session) guard(p *process) {
	switch r := recover(); r.(type) {
	case nil, gone:
	default:
		s.abort(p, fmt.Errorf("defect of xv: %v\n%s", r, debug.Stack()))
	}
}

// trace writes a line of the trace that -v shows.
func (s *Session) trace(format string, args ...any) {
	if s.cfg.Trace == nil {
		return
	}
	s.traceMu.Lock()
	defer s.traceMu.Unlock()
	_, err := io.WriteString(s.cfg.Trace, fmt.Sprintf("%.6f ", time.Since(s.started).Seconds())+fmt.Sprintf(format, args...)+"\n")
	if err != nil && !s.traceLost && s.cfg.Warn != nil {
		s.traceLost = true
		s.cfg.Warn(fmt.Sprintf("the trace is not complete: %v", err))
	}
}

// runFirst starts the first process and waits for its end, on an OS thread of its own: the kernel makes the
// thread that forks the parent and the tracer.
func (s *Session) runFirst(result chan<- error) {
	p, err := s.forkFirst()
	if err != nil {
		result <- err
		return
	}
	result <- nil
	s.await(p)
}

// await follows the state of the first process until it is reaped. A stop is only looked at
// (WNOWAIT) before it is taken, because a stop for the tracer of an execve isn't ours.
func (s *Session) await(p *process) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			s.end(Status{}, fmt.Errorf("waiting for process %d: %w", p.pid, err))
			return
		}
		switch info.Code {
		case cldExited, cldKilled, cldDumped:
			var ws unix.WaitStatus
			var usage unix.Rusage
			if _, err := unix.Wait4(p.pid, &ws, 0, &usage); err != nil && errors.Is(err, unix.EINTR) {
				continue
			}
			s.forget(p)
			s.end(Status{WaitStatus: syscall.WaitStatus(ws), Rusage: rusage(&usage)}, nil)
			return
		case cldStopped:
			if unix.Waitid(unix.P_PID, p.pid, &info, unix.WSTOPPED|unix.WNOHANG, nil) == nil {
				sig := syscall.Signal(childStatus(&info))
				s.mu.Lock()
				f := s.stop
				if f == nil {
					s.stoppedBy = sig
				}
				s.mu.Unlock()
				if f != nil {
					f(sig)
				}
			}
		default: // CLD_TRAPPED: an execve is being followed
			time.Sleep(time.Millisecond)
		}
	}
}

func (s *Session) end(st Status, err error) {
	s.mu.Lock()
	s.status = st
	if err != nil && s.failure == nil {
		s.failure = err
	}
	close(s.ended)
	s.fewer()
	s.mu.Unlock()
}

// Codes of SIGCHLD's siginfo (sigaction(2)).
const (
	cldExited  = 1
	cldKilled  = 2
	cldDumped  = 3
	cldStopped = 5
)
