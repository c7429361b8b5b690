//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// action is a signal's action as the guest set it: struct sigaction of the kernel.
type action struct {
	handler, flags, restorer, mask uint64
}

// Special values of action.handler, and flags that the kernel keeps (sigaction(2)).
const (
	sigDfl = 0
	sigIgn = 1

	saNoCldStop = 0x1
	saNoCldWait = 0x2
	saSigInfo   = 0x4
	saRestorer  = 0x04000000
	saOnStack   = 0x08000000
	saRestart   = 0x10000000
	saNoDefer   = 0x40000000
	saResetHand = 0x80000000
)

// actionTable is the signal handlers of one or more processes (CLONE_SIGHAND).
type actionTable struct {
	mu   sync.Mutex
	acts [65]action
}

func newActionTable() *actionTable { return &actionTable{} }

func (t *actionTable) get(sig int) action {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acts[sig]
}

func (t *actionTable) set(sig int, a action) {
	t.mu.Lock()
	t.acts[sig] = a
	t.mu.Unlock()
}

// swap replaces the action of sig if it is old. It reports whether it has.
func (t *actionTable) swap(sig int, old, a action) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acts[sig] != old {
		return false
	}
	t.acts[sig] = a
	return true
}

// copy returns the table of a forked process.
func (t *actionTable) copy() *actionTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &actionTable{acts: t.acts}
}

// afterExec returns the table of an executed program: what was caught has its default action again.
func (t *actionTable) afterExec() *actionTable {
	n := t.copy()
	for i := range n.acts {
		if n.acts[i].handler != sigIgn {
			n.acts[i] = action{}
		} else {
			n.acts[i] = action{handler: sigIgn}
		}
	}
	return n
}

// bit is the bit of a signal in a mask.
func bit(sig int) uint64 { return 1 << (sig - 1) }

// raisedByInstructions reports whether sig is one that the kernel must always deliver to the agent.
func raisedByInstructions(sig int) bool { return bit(sig)&abi.SyncMask != 0 }

// alwaysCaught reports whether the agent has a handler for sig whatever the guest's action is.
func alwaysCaught(sig int) bool { return raisedByInstructions(sig) || sig == int(kickSignal) }

// kernelAction is what the kernel is told for the guest's action where xv has its home.
func kernelAction(home abi.Home, sig int, a action) action {
	if (a.handler == sigDfl || a.handler == sigIgn) && !alwaysCaught(sig) {
		return action{handler: a.handler, flags: a.flags & (saNoCldStop | saNoCldWait)}
	}
	flags := a.flags & (saRestart | saNoCldStop | saNoCldWait)
	if a.handler == sigIgn {
		flags |= saRestart // the system call goes on
	}
	return action{
		handler: home.Agent() + agent.SignalHandler,
		flags:   saSigInfo | saOnStack | saRestorer | flags,
		mask:    ^uint64(0),
	}
}

func (a action) bytes() []byte {
	b := le64(a.handler)
	b = binary.LittleEndian.AppendUint64(b, a.flags)
	b = binary.LittleEndian.AppendUint64(b, a.restorer)
	return binary.LittleEndian.AppendUint64(b, a.mask)
}

// actionSize is the size of the kernel's struct sigaction.
const actionSize = 32

func parseAction(b []byte) action {
	w := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	return action{w(0), w(1), w(2), w(3)}
}

// installFaultHandlers gives the signals that instructions raise to the agent, and ignores what the
// first process is to ignore.
func (th *thread) installFaultHandlers() error {
	var calls []call
	scratch := th.ctx.scratch()
	off := 0
	put := func(sig int, a action) {
		copy(scratch[off:], a.bytes())
		calls = append(calls, call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr() + uint64(off), 0, 8}})
		off += actionSize
	}
	for sig := 1; sig <= 64; sig++ {
		if alwaysCaught(sig) {
			put(sig, kernelAction(th.home(), sig, th.p.actions.get(sig)))
		}
	}
	if th.p == th.p.s.first && !th.p.ignoredSet {
		th.p.ignoredSet = true
		for _, sig := range th.p.s.cfg.Ignored {
			a := action{handler: sigIgn}
			th.p.actions.set(int(sig), a)
			if !alwaysCaught(int(sig)) {
				put(int(sig), a)
			}
		}
	}
	return th.remoteErr(calls...)
}
