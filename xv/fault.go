//go:build !plan9

package xv

import "xvrun/xv/trap"

// faultHandler is what OnFault registers.
type faultHandler struct {
	filter trap.Filter
	call   func(*trap.Context) trap.Action
}

// OnFault makes f be called when an instruction of the guest, in any of its processes, raises SIGSEGV, SIGBUS,
// SIGILL, SIGFPE or SIGTRAP, and filter lets it through: before the guest's own handler is, and before the guest dies
// of it. The same goes for a signal for whose frame the stack has no room, which is a SIGSEGV. Faults of
// translation itself, and signals that processes send, are none. f decides what becomes of the thread (trap.Action).
//
// OnFault must be called before Start. Of several functions for the same fault the first one registered is called first; when it
// answers trap.Deliver, the next one is. Faults of several threads are handled at the same time, each by a goroutine of its
// own; f may take as long as it likes, while the other threads run on. Calls come after Start has set Process, which f may use,
// but it must not wait for the end of the guest. A panic or runtime.Goexit in f ends the guest, and Wait
// returns it as an error.
//
// After Process.HandOver faults are delivered to the guest.
func (c *Cmd) OnFault(filter trap.Filter, f func(*trap.Context) trap.Action) {
	if c.Process != nil {
		panic("xv: OnFault after Start")
	}
	c.faults = append(c.faults, faultHandler{filter, f})
}

// faultHandler is the function that calls those registered, nil if there are none.
func (c *Cmd) faultHandler() func(*trap.Context) trap.Action {
	if len(c.faults) == 0 {
		return nil
	}
	handlers := c.faults
	return func(ctx *trap.Context) trap.Action {
		<-c.begun
		for i := range handlers {
			h := &handlers[i]
			if !h.filter.Matches(ctx) {
				continue
			}
			if a := h.call(ctx); a != trap.Deliver {
				return a
			}
		}
		return trap.Deliver
	}
}
