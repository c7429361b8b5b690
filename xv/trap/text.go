//go:build !plan9

package trap

import (
	"fmt"
	"strings"
	"syscall"
)

// String tells all of a fault but vectors and memory, in lines of text that end with a newline.
func (c *Context) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "process %d thread %d: %s", c.Pid, c.Tid, c.SignalText())
	if c.Addr != 0 || c.Access != 0 {
		fmt.Fprintf(&b, " address %#x", c.Addr)
	}
	if c.Access != 0 {
		fmt.Fprintf(&b, " access %s", c.Access)
	}
	fmt.Fprintf(&b, "\nrip    %016x  %s", c.RIP, c.Disassembly())
	for n, name := range GeneralNames {
		sep := "  "
		if n%4 == 0 {
			sep = "\n"
		}
		fmt.Fprintf(&b, "%s%-6s %016x", sep, name, *c.General(n))
	}
	fmt.Fprintf(&b, "\nrflags %016x %s\n", c.RFLAGS, flagsText(c.RFLAGS))
	fs, _ := c.Base(FS)
	gs, _ := c.Base(GS)
	fmt.Fprintf(&b, "fsbase %016x  gsbase %016x\n", fs, gs)
	return b.String()
}

// SignalText names signal and code, like "SIGSEGV (SEGV_MAPERR)".
func (e *Event) SignalText() string {
	name, ok := signalNames[e.Signal]
	if !ok {
		name = fmt.Sprintf("signal %d", int(e.Signal))
	}
	if codes := codeNames[e.Signal]; e.Code > 0 && int(e.Code) < len(codes) && codes[e.Code] != "" {
		return fmt.Sprintf("%s (%s)", name, codes[e.Code])
	}
	if e.Code == siKernel {
		return name + " (SI_KERNEL)"
	}
	return fmt.Sprintf("%s (code %d)", name, e.Code)
}

const siKernel = 0x80

var signalNames = map[syscall.Signal]string{
	syscall.SIGSEGV: "SIGSEGV", syscall.SIGBUS: "SIGBUS", syscall.SIGILL: "SIGILL", syscall.SIGFPE: "SIGFPE", syscall.SIGTRAP: "SIGTRAP",
}

// codeNames are the values of si_code, from 1 (sigaction(2)).
var codeNames = map[syscall.Signal][]string{
	syscall.SIGSEGV: {1: "SEGV_MAPERR", 2: "SEGV_ACCERR", 3: "SEGV_BNDERR", 4: "SEGV_PKUERR"},
	syscall.SIGBUS:  {1: "BUS_ADRALN", 2: "BUS_ADRERR", 3: "BUS_OBJERR"},
	syscall.SIGILL:  {1: "ILL_ILLOPC", 2: "ILL_ILLOPN", 3: "ILL_ILLADR", 4: "ILL_ILLTRP", 5: "ILL_PRVOPC", 6: "ILL_PRVREG", 7: "ILL_COPROC", 8: "ILL_BADSTK"},
	syscall.SIGFPE:  {1: "FPE_INTDIV", 2: "FPE_INTOVF", 3: "FPE_FLTDIV", 4: "FPE_FLTOVF", 5: "FPE_FLTUND", 6: "FPE_FLTRES", 7: "FPE_FLTINV", 8: "FPE_FLTSUB"},
	syscall.SIGTRAP: {1: "TRAP_BRKPT", 2: "TRAP_TRACE", 3: "TRAP_BRANCH", 4: "TRAP_HWBKPT"},
}

// flagsText names the flags that are set (Intel SDM vol. 1, 3.4.3).
func flagsText(flags uint64) string {
	var set []string
	for _, f := range []struct {
		bit  int
		name string
	}{{0, "CF"}, {2, "PF"}, {4, "AF"}, {6, "ZF"}, {7, "SF"}, {8, "TF"}, {10, "DF"}, {11, "OF"}, {16, "RF"}, {18, "AC"}, {21, "ID"}} {
		if flags>>f.bit&1 != 0 {
			set = append(set, f.name)
		}
	}
	return "[" + strings.Join(set, " ") + "]"
}
