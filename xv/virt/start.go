//go:build linux && amd64

package virt

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// forkFirst forks the first process, which executes the file under ptrace, and puts the agent into it.
func (s *Session) forkFirst() (*process, error) {
	attr := &syscall.ProcAttr{Dir: s.cfg.Dir, Env: s.cfg.Env, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: s.cfg.Setpgid, Pdeathsig: syscall.SIGKILL}}
	for _, f := range s.cfg.Files {
		fd := ^uintptr(0)
		if f != nil {
			fd = f.Fd()
		}
		attr.Files = append(attr.Files, fd)
	}
	cpus := pin()
	defer unpin(0, cpus)
	var pid int
	mask, err := blocked(func() (err error) {
		pid, err = syscall.ForkExec(s.cfg.Path, s.cfg.Argv, attr)
		return err
	})
	runtime.KeepAlive(s.cfg.Files)
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			status := loader.ExitCannotExecute
			if errno == syscall.ENOENT {
				status = loader.ExitNotFound
			}
			return nil, &loader.Error{Path: s.cfg.Path, Reason: errno.Error(), Errno: errno, ExitStatus: status}
		}
		return nil, err
	}
	var ws unix.WaitStatus
	for {
		_, err = unix.Wait4(pid, &ws, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil || !ws.Stopped() {
		return nil, fmt.Errorf("process %d did not stop at its execve: status %#x, %v", pid, ws, err)
	}
	p, err := s.injectFirst(pid, mask, cpus)
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
		return nil, err
	}
	return p, nil
}

// blocked calls f with all signals blocked but SIGTRAP, by which a traced process says that it has executed a program, and
// returns the mask before. A child that f forks keeps them blocked: between fork and execve a signal meant for its process
// group would stop it, and with it the thread that waits for the execve (vfork(2)).
func blocked(f func() error) (mask uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := ^bit(int(unix.SIGTRAP))
	if err := setSigMask(&all, &mask); err != nil {
		return 0, err
	}
	err = f()
	setSigMask(&mask, nil)
	return mask, err
}

// injectFirst puts the agent into the first process. Its guest's signal mask is mask, cpus as for inject.
func (s *Session) injectFirst(pid int, mask uint64, cpus *unix.CPUSet) (*process, error) {
	as, err := s.newAddressSpace()
	if err != nil {
		return nil, err
	}
	p := s.newProcess(pid, as, newActionTable())
	s.first = p
	th, err := s.newThread(p)
	if err != nil {
		return nil, err
	}
	if err := s.adopt(p, pid); err != nil {
		return nil, err
	}
	if err := s.setLimits(p); err != nil {
		return nil, err
	}
	th.setGuestMask(mask)
	if err := th.inject(pid, cpus); err != nil {
		return nil, fmt.Errorf("putting the agent into process %d: %w", pid, err)
	}
	return p, nil
}

// inject maps the agent and the contexts into the program that thread tid has just executed, and
// lets it continue in the agent, on any of cpus. tid is in a ptrace stop of the calling OS thread.
func (th *thread) inject(tid int, cpus *unix.CPUSet) error {
	s := th.p.s
	th.tid = tid
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return fmt.Errorf("PTRACE_GETREGS: %w", err)
	}
	if regs.Cs != userCS {
		return errors.New("it is a 32-bit program, which can't be translated")
	}
	entry, stack := regs.Rip, regs.Rsp
	in := injector{tid: tid, regs: regs, arg: (regs.Rsp - argumentSize - 128) &^ 7}
	if err := in.begin(); err != nil {
		return err
	}
	if err := th.clearReadImpliesExec(&in); err != nil {
		return err
	}
	maps, err := th.maps()
	if err != nil {
		return err
	}
	home, err := s.homeBeside(maps)
	if err != nil {
		return err
	}
	if err := th.settle(home, overTables(maps)); err != nil {
		return err
	}
	if err := s.mapAgent(&in, borrower{th.p.pid, tid}, home, false); err != nil {
		return err
	}
	if err := in.end(); err != nil {
		return err
	}
	th.starting = func() { th.setUpImage(maps, entry, stack) }
	regs.Rip = home.Agent() + agent.Start
	regs.Gs_base = th.ctx.addr
	regs.Orig_rax = ^uint64(0) // no system call to restart
	if err := unix.PtraceSetRegs(tid, &regs); err != nil {
		return fmt.Errorf("PTRACE_SETREGS: %w", err)
	}
	unpin(tid, cpus)
	if err := unix.PtraceDetach(tid); err != nil {
		return fmt.Errorf("PTRACE_DETACH: %w", err)
	}
	for _, sig := range in.signals {
		unix.Tgkill(th.p.pid, tid, sig)
	}
	return nil
}

// setUpImage makes the program that the kernel has just mapped ready for translation: its images move
// to near addresses and lose PROT_EXEC. The guest then starts at what was entry, with its stack. maps are the mappings of the program.
func (th *thread) setUpImage(maps []loader.VMA, entry, stack uint64) {
	if err := th.buildImage(maps, &entry, stack); err != nil {
		th.p.s.fail(th.p, fmt.Errorf("starting process %d: %w", th.p.pid, err))
		return
	}
	var regs registers
	regs.gpr[rsp] = stack
	regs.rip = entry
	regs.rflags = 0x202 // IF, as the kernel starts programs
	th.resumeAt(regs)
}

func (th *thread) buildImage(maps []loader.VMA, entry *uint64, stack uint64) error {
	p, as := th.p, th.p.as
	view, err := th.readStack(maps, stack)
	if err != nil {
		return err
	}
	var code ranges
	for _, v := range maps {
		if v.Prot&loader.ProtExec != 0 && v.End <= 2*abi.NearEnd {
			code = append(code, codeRange{v.Start, v.End, v.Prot})
		}
	}
	th.chooseReturns()
	plan, err := loader.Plan(maps, view.Aux, imageGap(besides(maps, as.code.home, code), p.s.cfg.HighImages))
	if err != nil {
		return err
	}
	if err := as.code.mapInto(th); err != nil {
		return err
	}
	if th.confined.Load() != nil {
		if err := th.unpass(); err != nil {
			return err
		}
	}
	as.code.openImage(th.tid)
	var calls []call
	for _, m := range plan.Moves {
		size := m.OldEnd - m.OldStart
		if m.Exec {
			calls = append(calls, call{unix.SYS_MPROTECT, [6]uint64{m.OldStart, size, uint64(m.Prot) | unix.PROT_READ}})
		}
		if !m.Stays() {
			calls = append(calls, call{unix.SYS_MREMAP, [6]uint64{m.OldStart, size, size, unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED, m.NewStart}})
		}
	}
	if plan.ExecStack {
		// Only the part that exists: the stack grows with the protection of its lowest page.
		calls = append(calls, call{unix.SYS_MPROTECT, [6]uint64{plan.Stack.Start, plan.Stack.Len(), unix.PROT_READ | unix.PROT_WRITE | unix.PROT_GROWSDOWN}})
	}
	for _, patch := range plan.Patches {
		if !th.write(view.At(patch), le64(patch.Value)) {
			return fmt.Errorf("writing the auxiliary vector at %#x", view.At(patch))
		}
	}
	describe, err := th.describeImage(plan, view)
	if err != nil {
		return err
	}
	calls = append(calls, call{unix.SYS_SIGALTSTACK, [6]uint64{th.ctx.addr + abi.SigStack, 0}})
	results := th.remote(append(calls, describe)...)
	if err := firstError(calls, results); err != nil {
		return err
	}
	if failed(results[len(calls)]) { // the program break stays where it is
		p.s.watchBreak()
	}
	if err := th.installFaultHandlers(); err != nil {
		return err
	}
	for _, m := range plan.Moves {
		if m.Exec {
			th.gainCode(m.NewStart, m.NewStart+m.OldEnd-m.OldStart, m.Prot|unix.PROT_EXEC)
			th.mappedImage(maps, m)
		}
	}
	if plan.ExecStack {
		th.gainCode(plan.Stack.End-stackRoom, plan.Stack.End, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC)
	}
	start, ok := plan.Translate(*entry)
	if !ok {
		return fmt.Errorf("the entry point %#x lies in no image", *entry)
	}
	*entry = start
	for _, img := range plan.Images {
		p.s.trace("%d: %s %s at %#x (was %#x)", p.pid, img.Kind, img.Path, img.NewLow, img.Low)
	}
	return nil
}

// stackRoom is what the kernel keeps free for the stack to grow into, at least (arch/x86/mm/mmap.c, MIN_GAP).
const stackRoom = 128 << 20

// readImpliesExec is READ_IMPLIES_EXEC of personality(2): what is mapped readable can be executed.
const readImpliesExec = 0x0400000

// clearReadImpliesExec takes the flag from the kernel, which would make original code executable, and
// keeps it for the guest. Old kernels set it for programs without PT_GNU_STACK.
func (th *thread) clearReadImpliesExec(c caller) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/personality", th.tid))
	if err != nil {
		return err
	}
	flags, err := strconv.ParseUint(strings.TrimSpace(string(text)), 16, 32)
	if err != nil || flags&readImpliesExec == 0 {
		return err
	}
	th.p.as.readExec.Store(true)
	r, err := c.perform(call{unix.SYS_PERSONALITY, [6]uint64{flags &^ readImpliesExec}})
	if err == nil && failed(r[0]) {
		err = fmt.Errorf("personality: %w", unix.Errno(-r[0]))
	}
	return err
}

// readStack reads the initial stack from sp to the end of its mapping, and parses it.
func (th *thread) readStack(maps []loader.VMA, sp uint64) (*loader.StackView, error) {
	for _, v := range maps {
		if !v.Contains(sp) {
			continue
		}
		mem := make([]byte, min(v.End-sp, maxStack))
		if n := th.read(sp, mem); n < len(mem) {
			return nil, fmt.Errorf("the initial stack at %#x cannot be read", sp)
		}
		view, err := loader.ParseStack(mem)
		if err != nil {
			return nil, err
		}
		view.AuxAt += sp
		return view, nil
	}
	return nil, fmt.Errorf("no stack at %#x", sp)
}

// maxStack bounds what the kernel puts on an initial stack (3/4 of 8 MiB, execve(2)).
const maxStack = 8 << 20

// tracedExec lets th execute a program: a new OS thread traces it over the execve and puts the agent
// into the program. If the execve fails, th goes on in the agent and reports the result. Of several
// threads of a process one at a time does it: the others end if that succeeds.
func (th *thread) tracedExec(next *thread, k call) {
	th.server.leave()
	for !th.p.executing.CompareAndSwap(false, true) {
		if th.p.dead.Load() || th.dead.Load() {
			th.p.s.unmake(next)
			panic(gone{})
		}
		nap(100 * time.Microsecond)
	}
	th.server.enter()
	started := make(chan error)
	onOwnThread(func() {
		err := seize(th.tid, unix.PTRACE_O_TRACEEXEC)
		started <- err
		if err == nil {
			th.followExec(next)
		}
	})
	err := <-started
	if err == nil {
		th.ctx.setCall(abi.Call, k)
		th.reply(abi.OpExec, 0)
		return
	}
	th.p.executing.Store(false)
	th.p.s.unmake(next)
	if err != unix.ESRCH && !ending(th.tid) {
		th.p.s.fail(th.p, fmt.Errorf("tracing the execve of process %d: %w (ptrace must be permitted)", th.p.pid, err))
	}
}

// unmake gives back what a program that was not executed would have had.
func (s *Session) unmake(next *thread) {
	s.drop(next)
	next.p.as.leave()
}

// followExec waits for the outcome of an execve of th. The thread's id changes to that of its process
// if it succeeds.
func (th *thread) followExec(next *thread) {
	s := th.p.s
	defer s.guard(th.p)
	defer th.p.executing.Store(false)
	for {
		tid, err := peekTracee()
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || tid == 0:
			return // it died; its death is left to its parent
		}
		ws, err := waitTracee(tid)
		switch {
		case err != nil || !ws.Stopped():
			return
		case ws.TrapCause() == unix.PTRACE_EVENT_EXEC:
			if err := th.executed(next, tid); err != nil && !th.p.dead.Load() && !errors.Is(err, unix.ESRCH) {
				s.fail(th.p, fmt.Errorf("starting a program in process %d: %w", th.p.pid, err))
			}
			return
		case isEventStop(ws):
			listenOrCont(tid, ws)
		case ws.StopSignal() == unix.SIGTRAP && ws.TrapCause() == 0:
			var regs unix.PtraceRegs
			if unix.PtraceGetRegs(tid, &regs) == nil && regs.Rip == th.home().Agent()+agent.ExecFailed+1 {
				s.unmake(next)
				unix.PtraceDetach(tid)
				return
			}
			unix.PtraceCont(tid, int(unix.SIGTRAP))
		default:
			unix.PtraceCont(tid, int(ws.StopSignal()))
		}
	}
}

// peekTracee waits until the tracee of the calling OS thread has stopped, and returns its id, or 0 if
// it ended: who looks at that without taking it (WNOWAIT) leaves it to the parent.
func peekTracee() (int, error) {
	pid, ended, err := peek(unix.P_ALL, 0, unix.WEXITED|unix.WSTOPPED)
	if err != nil || ended {
		return 0, err
	}
	return pid, nil
}

// executed replaces what the supervisor knows of the process by the new program's.
func (th *thread) executed(next *thread, tid int) error {
	s, p := th.p.s, th.p
	s.mu.Lock()
	for other := range p.threads { // only the caller of execve lives on, in its new context
		other.dead.Store(true)
		futexWake(word32(other.ctx.mem, abi.State))
		other.left = true
		s.free = append(s.free, other.slot)
		delete(p.threads, other)
	}
	old := p.as
	p.as, p.actions = next.p.as, p.actions.afterExec()
	p.undumpable.Store(false)
	p.borrows = false
	p.as.inheritMDWE(old)
	delete(next.p.threads, next)
	next.p = p
	p.threads[next] = struct{}{}
	s.mu.Unlock()
	old.leave()
	s.counters.processes.Add(1)
	next.confined.Store(th.confined.Load())
	next.setGuestMask(th.guestMask()) // not the kernel's: the agent blocks all for the execve
	next.setHeld(th.held)
	next.alt.flags = th.alt.flags
	// The stop is inside execve, which will still store its result in rax: step to its end. The kernel
	// reports the step before the program's first instruction.
	ws, err := stepTracee(tid)
	if err != nil {
		return err
	}
	if ws.StopSignal() != unix.SIGTRAP { // a signal came first: it is sent again
		defer unix.Tgkill(p.pid, tid, ws.StopSignal())
	}
	return next.inject(tid, nil)
}
