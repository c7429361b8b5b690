//go:build linux && amd64

package virt

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// injector runs system calls in a stopped thread. In a program that has not executed anything yet a syscall
// instruction is put over its first instruction for the time, and the arguments are below its stack.
type injector struct {
	th   *thread // nil: it has not begun
	tid  int
	regs unix.PtraceRegs // rip is at a syscall instruction
	arg  uint64          // memory for arguments
	old  [8]byte
	many bool // the agent performs several calls without a stop, from listStart of the thread's slot

	signals []unix.Signal // to be sent again
}

func (in *injector) begin() error {
	if _, err := unix.PtracePeekText(in.tid, uintptr(in.regs.Rip), in.old[:]); err != nil {
		return fmt.Errorf("PTRACE_PEEKTEXT: %w", err)
	}
	text := in.old
	text[0], text[1] = 0x0f, 0x05 // syscall
	if _, err := unix.PtracePokeText(in.tid, uintptr(in.regs.Rip), text[:]); err != nil {
		return fmt.Errorf("PTRACE_POKETEXT: %w", err)
	}
	return nil
}

func (in *injector) end() error {
	if _, err := unix.PtracePokeText(in.tid, uintptr(in.regs.Rip), in.old[:]); err != nil {
		return fmt.Errorf("PTRACE_POKETEXT: %w", err)
	}
	return nil
}

// perform implements caller.
func (in *injector) perform(calls ...call) ([]int64, error) {
	var results []int64
	if in.many && len(calls) > 1 {
		for some := range slices.Chunk(calls, listSize) {
			list, err := in.performList(some)
			if err != nil {
				return nil, err
			}
			results = append(results, list...)
		}
		return results, nil
	}
	for _, k := range calls {
		r, err := in.call(k)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

func (in *injector) argument() uint64 { return in.arg }

func (in *injector) writeArgument(off int, b []byte) error {
	if _, err := unix.PtracePokeData(in.tid, uintptr(in.argument())+uintptr(off), b); err != nil {
		return fmt.Errorf("PTRACE_POKEDATA: %w", err)
	}
	return nil
}

func (in *injector) readArgument(off int, b []byte) error {
	if _, err := unix.PtracePeekData(in.tid, uintptr(in.argument())+uintptr(off), b); err != nil {
		return fmt.Errorf("PTRACE_PEEKDATA: %w", err)
	}
	return nil
}

func (in *injector) call(k call) (int64, error) {
	regs := in.regs
	regs.Rax = uint64(k.nr)
	regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9 = k.args[0], k.args[1], k.args[2], k.args[3], k.args[4], k.args[5]
	regs.Orig_rax = ^uint64(0)
	if err := unix.PtraceSetRegs(in.tid, &regs); err != nil {
		return 0, err
	}
	for {
		if err := in.step(); err != nil {
			return 0, err
		}
		if err := unix.PtraceGetRegs(in.tid, &regs); err != nil {
			return 0, err
		}
		if regs.Rip != in.regs.Rip {
			return int64(regs.Rax), nil
		}
	}
}

// listStart is the offset in a slot of the calls that a thread performs without a stop, listSize how many there may be.
const (
	listSize  = 64
	listStart = abi.FrameEnd - listSize*abi.CallSize
)

// performList lets the agent perform calls.
func (in *injector) performList(calls []call) ([]int64, error) {
	for i, k := range calls {
		in.th.ctx.setCall(listStart+i*abi.CallSize, k)
	}
	regs := in.regs
	agentAt := in.regs.Rip - agent.SyscallAt
	regs.Rip, regs.Rbp = agentAt+agent.Calls, agentAt+agent.CallsTrap
	regs.R12, regs.R14 = uint64(len(calls)), in.arg-abi.FrameArea+listStart
	regs.Orig_rax = ^uint64(0)
	if err := unix.PtraceSetRegs(in.tid, &regs); err != nil {
		return nil, err
	}
	for regs.Rip != agentAt+agent.CallsTrap+1 {
		ws, err := resumeTracee(in.tid, func() error { return unix.PtraceCont(in.tid, 0) })
		if err != nil {
			return nil, err
		}
		in.keep(ws)
		if err := unix.PtraceGetRegs(in.tid, &regs); err != nil {
			return nil, err
		}
	}
	results := make([]int64, len(calls))
	for i := range results {
		results[i] = int64(in.th.ctx.u64(listStart + i*abi.CallSize + callResult))
	}
	return results, nil
}

// step lets the tracee execute an instruction, or takes a signal that comes first. That one is kept for later.
func (in *injector) step() error {
	ws, err := stepTracee(in.tid)
	if err == nil {
		in.keep(ws)
	}
	return err
}

// keep notes the signal of a stop, if that is not the trap which was waited for.
func (in *injector) keep(ws unix.WaitStatus) {
	if sig := ws.StopSignal(); sig != unix.SIGTRAP || in.sent() {
		in.signals = append(in.signals, sig)
	}
}

// stepTracee lets a tracee execute an instruction, and returns its stop for a signal: SIGTRAP, or one that comes first. A stop of
// another kind may come between the instruction and the SIGTRAP that tells of it.
func stepTracee(tid int) (unix.WaitStatus, error) {
	return resumeTracee(tid, func() error { return unix.PtraceSingleStep(tid) })
}

// resumeTracee lets a tracee go on by resume until it stops for a signal.
func resumeTracee(tid int, resume func() error) (unix.WaitStatus, error) {
	for {
		if err := resume(); err != nil {
			return 0, fmt.Errorf("resuming a traced thread: %w", err)
		}
		ws, err := waitTracee(tid)
		switch {
		case err != nil:
			return 0, err
		case !ws.Stopped():
			return 0, unix.ESRCH // killed
		case !isEventStop(ws):
			return ws, nil
		}
	}
}
