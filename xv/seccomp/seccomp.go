// Package seccomp evaluates the system call filters of a guest (seccomp(2)): it checks and runs their programs in
// classic BPF, as the kernel does (kernel/seccomp.c, net/core/filter.c).
package seccomp

import (
	"encoding/binary"
	"errors"
)

// Inst is an instruction: struct sock_filter.
type Inst struct {
	Code   uint16
	JT, JF uint8 // instructions to skip
	K      uint32
}

// InstSize is the size of an instruction in bytes.
const InstSize = 8

// MaxLen is the largest number of instructions of a program (BPF_MAXINSNS).
const MaxLen = 4096

// Parse reads instructions; the length of b is a multiple of InstSize.
func Parse(b []byte) []Inst {
	prog := make([]Inst, len(b)/InstSize)
	for i := range prog {
		p := b[i*InstSize:]
		prog[i] = Inst{binary.LittleEndian.Uint16(p), p[2], p[3], binary.LittleEndian.Uint32(p[4:])}
	}
	return prog
}

// Data is what a program sees of a system call: struct seccomp_data.
type Data struct {
	Nr   int32
	Arch uint32    // AUDIT_ARCH_X86_64 or AUDIT_ARCH_I386
	IP   uint64    // address behind the system call instruction
	Args [6]uint64 // as passed
}

// dataSize is the size of struct seccomp_data.
const dataSize = 64

// Architectures of system calls (linux/audit.h).
const (
	ArchX86_64 = 0xc000003e
	ArchI386   = 0x40000003
)

// bytes is the data as in memory.
func (d *Data) bytes() (b [dataSize]byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(d.Nr))
	le.PutUint32(b[4:], d.Arch)
	le.PutUint64(b[8:], d.IP)
	for i, a := range d.Args {
		le.PutUint64(b[16+8*i:], a)
	}
	return b
}

// Result is what a filter returns: an action, and 16 bits of data.
type Result uint32

// Actions, the most restrictive first (seccomp(2)).
const (
	KillProcess Result = 0x80000000
	KillThread  Result = 0x00000000
	Trap        Result = 0x00030000
	Errno       Result = 0x00050000
	UserNotif   Result = 0x7fc00000
	Trace       Result = 0x7ff00000
	Log         Result = 0x7ffc0000
	Allow       Result = 0x7fff0000
)

// Action is the result without its data.
func (r Result) Action() Result { return r & 0xffff0000 }

// Data is the 16 bits that belong to the action.
func (r Result) Data() uint16 { return uint16(r) }

// Filter is a program on top of those installed before. It never changes.
type Filter struct {
	Prog []Inst
	Prev *Filter // nil: the first
}

var (
	// ErrInvalid: the kernel would not take the program (EINVAL).
	ErrInvalid = errors.New("seccomp: invalid program")
	// ErrTooLong: with those before, the programs are too long (ENOMEM).
	ErrTooLong = errors.New("seccomp: programs too long")
)

// maxPath bounds the instructions of all programs, of which each counts perFilter more (MAX_INSNS_PER_PATH).
const (
	maxPath   = 1 << 15
	perFilter = 4
)

// New checks a program and puts it on top of prev, which may be nil.
func New(prog []Inst, prev *Filter) (*Filter, error) {
	if err := check(prog); err != nil {
		return nil, err
	}
	total := len(prog)
	for f := prev; f != nil; f = f.Prev {
		total += len(f.Prog) + perFilter
	}
	if total > maxPath {
		return nil, ErrTooLong
	}
	return &Filter{prog, prev}, nil
}

// Above reports whether f is other, or was put on top of it. Every filter is above nil.
func (f *Filter) Above(other *Filter) bool {
	for ; f != other; f = f.Prev {
		if f == nil {
			return false
		}
	}
	return true
}

// Run runs all programs, the newest first, and returns the most restrictive result; of several with the same
// action that of the newest.
func (f *Filter) Run(d *Data) Result {
	data := d.bytes()
	result := Allow
	for ; f != nil; f = f.Prev {
		if r := Result(run(f.Prog, &data)); int32(r.Action()) < int32(result.Action()) {
			result = r
		}
	}
	return result
}
