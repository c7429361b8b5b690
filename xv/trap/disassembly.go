//go:build !plan9

package trap

import (
	"fmt"

	"golang.org/x/arch/x86/x86asm"

	"xvrun/xv/x86"
)

// Instruction returns the bytes of the instruction at RIP. It is nil if the bytes there cannot be read or are no
// instruction.
func (c *Context) Instruction() []byte {
	var b [x86.MaxLen]byte
	n := 0
	if !c.done {
		n = c.thread.ReadMemory(c.RIP, b[:])
	}
	var in x86.Inst
	if x86.Decode(b[:n], &in) != nil {
		return nil
	}
	return b[:in.Len]
}

// Disassembly is the instruction at RIP in AT&T syntax, or its bytes, if the printer does not know it, or "?" if there is
// none.
func (c *Context) Disassembly() string {
	b := c.Instruction()
	if b == nil {
		return "?"
	}
	// The printer takes some instructions for others of another length. Package x86 has the right length.
	in, err := x86asm.Decode(b, 64)
	if err != nil || in.Len != len(b) {
		return fmt.Sprintf(".byte % x", b)
	}
	return x86asm.GNUSyntax(in, c.RIP, nil)
}
