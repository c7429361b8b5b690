package insn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// The layout of a record; testdata/driver.S writes it.
const (
	recMagic    = 0x53495658
	recKind     = 12
	recGPR      = 16
	recFlags    = 144
	recMXCSR    = 152
	recX87      = 160
	recSum      = 168
	recStackSum = 176
	recST       = 192
	recK        = 320
	recWindow   = 384
	recStack    = 640
	recFault    = 704
	recVec      = 960
)

var gprNames = []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

// faultNames are the words of the fault area: the signal, then the general
// registers in the order of the kernel's sigcontext.
var faultNames = []string{"signal", "si_code", "si_addr",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx",
	"rsp", "rip", "eflags", "csgsfs", "err", "trapno", "oldmask", "cr2"}

// recordSize is the size of a record on a processor with these features.
func recordSize(f Features) int {
	n, size := f.vectors()
	return recVec + n*size
}

func u32(rec []byte, off int) uint32 { return binary.LittleEndian.Uint32(rec[off:]) }
func u64(rec []byte, off int) uint64 { return binary.LittleEndian.Uint64(rec[off:]) }

// recordIndex returns the snippet and the round of a record.
func recordIndex(rec []byte) (index, round int, ok bool) {
	return int(u32(rec, 4)), int(u32(rec, 8)), u32(rec, 0) == recMagic
}

// faulted reports whether the snippet ended in a signal.
func faulted(rec []byte) bool { return u32(rec, recKind) != 0 }

// describeFault says how a snippet faulted.
func describeFault(rec []byte) string {
	return fmt.Sprintf("signal %d, code %d, address %#x, rip %#x",
		u64(rec, recFault), int32(u32(rec, recFault+8)), u64(rec, recFault+16), u64(rec, recFault+24+16*8))
}

// diffRecords lists the fields in which two records differ.
func diffRecords(f Features, want, got []byte) string {
	var b strings.Builder
	word := func(name string, off int) {
		if w, g := u64(want, off), u64(got, off); w != g {
			fmt.Fprintf(&b, "  %-10s native %#018x translated %#018x\n", name, w, g)
		}
	}
	block := func(name string, off, n int) {
		if w, g := want[off:off+n], got[off:off+n]; !bytes.Equal(w, g) {
			fmt.Fprintf(&b, "  %-10s native     %x\n  %-10s translated %x\n", name, w, "", g)
		}
	}
	if faulted(want) != faulted(got) {
		fmt.Fprintf(&b, "  fault      native %v translated %v\n", faulted(want), faulted(got))
	}
	if faulted(want) || faulted(got) {
		for i, name := range faultNames {
			word("at fault: "+name, recFault+8*i)
		}
	}
	for i, name := range gprNames {
		word(name, recGPR+8*i)
	}
	if w, g := u64(want, recFlags), u64(got, recFlags); w != g {
		fmt.Fprintf(&b, "  flags      native %s translated %s\n", flagNames(w), flagNames(g))
	}
	word("mxcsr", recMXCSR)
	word("x87 words", recX87)
	for i := range 8 {
		block(fmt.Sprintf("st%d", i), recST+16*i, 16)
		word(fmt.Sprintf("k%d", i), recK+8*i)
	}
	n, size := f.vectors()
	for i := range n {
		block(fmt.Sprintf("vector %d", i), recVec+size*i, size)
	}
	word("memory sum", recSum)
	for i := 0; i < 256; i += 16 {
		block(fmt.Sprintf("scratch+%d", window+i), recWindow+i, 16)
	}
	word("stack sum", recStackSum)
	for i := 0; i < 64; i += 8 {
		word(fmt.Sprintf("%d(rsp)", i), recStack+i)
	}
	return b.String()
}

func flagNames(f uint64) string {
	var s []string
	for _, bit := range []struct {
		bit  uint64
		name string
	}{{flagCF, "CF"}, {flagPF, "PF"}, {flagAF, "AF"}, {flagZF, "ZF"}, {flagSF, "SF"}, {1 << 10, "DF"},
		{flagOF, "OF"}, {1 << 18, "AC"}, {1 << 21, "ID"}} {
		if f&bit.bit != 0 {
			s = append(s, bit.name)
		}
	}
	return "[" + strings.Join(s, " ") + "]"
}
