// Package translate turns x86-64 code of a guest into code for the translation cache. It is pure: it
// makes no system calls and keeps no state, and the same input always gives the same bytes. The translated
// forms are listed in docs/internals.md.
//
// Discover finds a Region: the basic blocks reachable from an entry. Emit translates a region for a given
// cache offset. Recover, Boundary and Boundaries translate again, with a recorder, to map between cache
// offsets and states of the original program; nothing but the region needs to be kept for that.
package translate

import (
	"errors"
	"fmt"
)

// Offsets in the thread context, which GS points at.
const (
	OffS       = 0x08  // rcx, wherever control enters a region and while an indirect branch is in flight
	OffT       = 0x10  // target of the indirect branch in flight, if it uses the hash; biased like the one in rcx
	OffX0      = 0x18  // first scratch register of a rewritten instruction
	OffX1      = 0x20  // second scratch register of a rewritten instruction
	OffGuestGS = 0x28  // the guest's GS base
	OffStub    = 0x30  // u32: offset in the cache of the exit stub that was left
	OffFuel    = 0x34  // u32: how many checks are left until one leaves as if it had failed
	OffV       = 0x680 // xmm0 and xmm1 during a check
)

// WordSize is the size and alignment of one of Region.Words, a vector of bytes: while code may be executed the highest bit of each
// is set, else of none.
const WordSize = 16

// CallBias is added to the target of an indirect branch, in rcx, when it is a call: so it has its entry in table C.
const CallBias = 1 << 30

// HashSize is the number of entries of a table of the hash. An indirect branch that uses it finds its entry, of 8 bytes, by the
// low 16 bits of the target. Other branches to addresses below, where no code is, fault at their table.
const HashSize = 1 << 16

// ReturnMark is in rcx after a return, with Layout.NativeReturns. A missed branch has its target there, or 0 if it uses the hash.
const ReturnMark = 1

// Align is the alignment of the cache offset of every fragment.
const Align = 32

// Layout is where in the guest that is what emitted code refers to. All but Table are cache offsets: distances from the start of the
// code cache in bytes, modulo 2^32, since most of it lies before that, and all of it less than 2 GiB apart. So emitted
// code is the same wherever the cache is.
type Layout struct {
	// NativeReturns says that calls push the cache address of their return site, and returns go there without a look at a table.
	// Then branches lead to code in the same way whether they are calls or jumps: nothing is on the stack besides.
	NativeReturns bool

	Table   uint32 // address of lookup table J, below 2^31
	Hash    uint32 // table of the hash for jumps and returns, the one for calls follows; see HashSize
	Miss    uint32 // agent entry that exit stubs of direct branches jump to
	Special uint32 // agent entry for special instructions
	Gate    uint32 // agent's system call gate
}

// Source gives original code bytes.
type Source interface {
	// ReadCode copies executable bytes at addr to p and returns how many there are, 0 if addr is not
	// executable. It returns less than len(p) only where executable memory ends.
	ReadCode(addr uint64, p []byte) int
}

// Region is the recipe of one translation: with the original bytes it is enough to emit it again.
type Region struct {
	Entry  uint64
	Way    Way
	Blocks []Block // in order of Addr

	// Checked says that the fragment compares the original code with what it was translated from whenever control
	// enters it: the guest can change it unnoticed. It has one block then. Loose are the addresses of instructions in it
	// whose immediate operand is loaded from the original code instead, in order; see Loosen.
	// Words are the cache offsets of WordSize bytes that say whether the code may be executed: that of the page of the entry, and
	// that of the page of the end, which may be the same.
	Checked bool
	Loose   []uint64
	Words   [2]uint32

	// Hashed are the addresses of indirect branches in it that use the hash, in order.
	Hashed []uint64
}

// Way is how the entry of a region was first reached. It decides which entries the region has inline, just before
// the body of the entry's block; the other ones are stubs out of line, on demand.
type Way uint8

const (
	ByLink Way = iota // a direct jump: no entry but the body
	ByJump            // an indirect jump: J
	ByCall            // a call: IC, J and D
)

// Block is a run of instructions that is entered only at its start. Calls and conditional branches may lie
// inside it. What does not end with an unconditional branch falls through to Addr+Len. Blocks overlap
// where the original code overlaps.
type Block struct {
	Addr uint64
	Len  uint32 // original bytes
	Room uint32 // upper bound of the translated bytes; see blockMarks
}

// Marks in Room.
const (
	// blockStale: the block can be reached from within the region with an rcx that gs:[OffS] does not hold.
	blockStale = 1 << 31
	// blockNeeds: the block needs rcx in its register. One that does not is entered with rcx in gs:[OffS], and with
	// anything in the register.
	blockNeeds = 1 << 30

	blockMarks = blockStale | blockNeeds
)

func (b *Block) room() uint32 { return b.Room &^ blockMarks }

// stale reports that gs:[OffS] need not hold rcx at the start of the block.
func (b *Block) stale() bool { return b.Room&blockStale != 0 }

// away reports that only gs:[OffS] need hold rcx at the start of the block.
func (b *Block) away() bool { return b.Room&blockMarks == 0 }

// NeedsRCX reports that only code which has rcx in its register may branch to the body of the block: the other entries
// reload it. To a block that does not need it all branches go alike.
func (b *Block) NeedsRCX() bool { return b.Room&blockNeeds != 0 }

// Limits bound a region.
type Limits struct {
	Blocks int    // 0: DefaultBlocks
	Bytes  int    // original bytes; 0: DefaultBytes
	Reach  uint64 // branch targets further than this from the entry are not followed; 0: DefaultReach
	// Stop, if set, reports that addr is already translated elsewhere: the region ends there with a link. It is
	// asked of every instruction but the first, since code that is translated twice has return sites that only
	// one of the copies returns to as the processor predicts.
	Stop func(addr uint64) bool
	// Checked makes a checked region: it ends with the first instruction that stores, branches or serializes, after
	// which code that the guest changes must be looked at again.
	Checked bool
}

// Defaults of Limits.
const (
	DefaultBlocks = 256
	DefaultBytes  = 8 << 10
	DefaultReach  = 1 << 20
)

// DecodeError says that the first instruction of a region cannot be translated.
type DecodeError struct {
	Addr  uint64
	Bytes []byte // the executable bytes there, at most 15; empty: not executable
	Err   error  // of x86.Decode; nil if not executable
}

func (e *DecodeError) Error() string {
	if len(e.Bytes) == 0 {
		return fmt.Sprintf("translate: %#x is not executable", e.Addr)
	}
	return fmt.Sprintf("translate: %#x: % x: %v", e.Addr, e.Bytes, e.Err)
}

func (e *DecodeError) Unwrap() error { return e.Err }

// ErrChanged says that the original code is no longer what Discover saw.
var ErrChanged = errors.New("translate: the original code has changed")

// ErrUnaligned says that a cache offset is not a multiple of Align.
var ErrUnaligned = errors.New("translate: the cache offset is not aligned")

// Entry pairs an original address with an offset in a fragment.
type Entry struct {
	Addr uint64
	Off  uint32
}

// Link is a direct branch that leaves the region. It can be patched while other threads run.
type Link struct {
	Target uint64 // original address
	Off    uint32 // offset of the rel32 field, which lies inside one aligned 8 bytes
	Stub   uint32 // offset of its exit stub, where it points initially
	Call   bool   // it must lead to D of the target, not to B
	Away   bool   // rcx is in gs:[OffS] only: it must lead to the entry of indirect branches, IC or J
	Check  bool   // it is taken when a check fails: the target is the region's own entry
}

// Fragment is a translated region. Its slices belong to the Buffer and are valid until its next use.
type Fragment struct {
	Code    []byte
	Hot     uint32  // length of the translated blocks; exit stubs follow
	Instrs  int     // original instructions
	Entries []Entry // body (B) of every block, in order of address
	Returns []Entry // return sites, each the entry in table J; in order of offset
	Links   []Link  // in order of Off

	// Entries of Region.Entry.
	JumpEntry       uint32 // entry in table J; not valid if Region.Way is ByLink
	CallEntry       uint32 // IC: entry in table C; valid if Region.Way is ByCall
	DirectCallEntry uint32 // D: where direct calls go; valid if Region.Way is ByCall
}

// Saved is a register whose original value is in the thread context.
type Saved struct {
	Slot uint8 // offset in the context; 0: none
	Reg  uint8 // 0 is rax, 15 is r15
}

// Kind tells apart the states that need more than the recovery of registers.
type Kind uint8

const (
	KindPlain    Kind = iota
	KindTable         // an indirect branch through its table or the hash is next, with the target in rcx: if it faults, the target has no image
	KindExit          // in the exit stub of a branch: RIP is its target
	KindCallExit      // in the exit stub of a call: RIP is its target, and the call has been made
	KindSpecial       // at a special instruction: RIP is its address
	KindGate          // the jump to the gate is next: RIP is the address of the syscall, rcx is already lost
	KindMiss          // in an entry of the hash: as at address 0, the target in gs:[OffT] is not known to be this one
)

// Recovery says how to get from the machine state at a cache address to the state of the original program.
type Recovery struct {
	RIP        uint64   // original instruction pointer
	RSPAdd     int32    // to add to rsp
	RIPFromRCX bool     // the instruction pointer is in rcx instead (never biased); in gs:[OffT] if Hashed
	RCXFromS   bool     // rcx is in gs:[OffS]; the register may hold anything
	Hashed     bool     // the indirect branch in flight uses the hash: its target is in gs:[OffT] instead of in rcx
	Vectors    bool     // xmm0 and xmm1 are in gs:[OffV]
	Saved      [2]Saved // scratch registers
	Kind       Kind
}

// Exact reports that the machine state is the original program's, but for the instruction pointer, and for rcx if
// RCXFromS: a thread with the original state, and rcx in gs:[OffS] too, can go on here.
func (r *Recovery) Exact() bool {
	plain := r.RSPAdd == 0 && !r.RIPFromRCX && !r.Vectors && r.Saved[0].Slot == 0 && r.Saved[1].Slot == 0
	return plain && r.Kind != KindGate && r.Kind != KindMiss
}
