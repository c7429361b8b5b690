// Package abi is the layout that the agent's machine code and the supervisor share: addresses in the
// guest, the thread context that GS base points at, and the codes of the hand-off.
//
// A hand-off: the guest's thread writes Kind, sets State to StateRequest, pushes its slot on the
// doorbell of its CPU and sleeps on State. A server answers with Op (after a vector of Count system
// calls) and StateReply. After OpRemote the thread reports StateDone to the server that asked, and
// waits for the next answer.
package abi

// Addresses in the guest that are the same in every address space.
const (
	NearStart = 0x0001_0000 // the first address of the near zone (vm.mmap_min_addr)
	NearEnd   = 0x4000_0000 // its end
	NearFirst = 0x1000_0000 // images are placed below while there is room; the tables for what is above are mapped on demand
	FarEnd    = 1 << 43     // code above has no table entries
)

// Sizes, in bytes where nothing else is said.
const (
	PageSize     = 0x1000
	AgentSize    = 0x1_0000
	PassPage     = AgentSize - PageSize // offset in the agent's memory of the page with the gate's table of system calls
	Filtered     = PassPage             // offset of a byte: the agent does no system call of the guest on its own
	SlotSize     = 0x1_0000
	EntrySize    = 8               // of an entry of a table: the cache address
	HashSize     = EntrySize << 16 // of the table of the hash for jumps, and of that for calls
	TableSize    = 2 * EntrySize * NearEnd
	ContextsSize = hash - contexts
	MaxSlots     = (hash - slots) / SlotSize
	MaxCache     = 256 << 20
	MinCache     = 16 << 20 // where there is no room for more
	MaxDoorbells = 32
	ReaperPIDs   = 4096 // words in the reaper's table of process ids
	CPUMapSize   = 4096
)

// Offsets in the header of the contexts, which takes what is before SlotsStart.
const (
	Doorbells  = 0 // doorbell i: its list of slots at 64*i, the number of sleeping servers at 64*i+4
	Dead       = 0x800
	CPUMap     = 0x1000 // a byte for each CPU number: its doorbell
	Toggles    = 0x10_0000
	TogglesEnd = 0x20_0000
	SlotsStart = slots - contexts
)

// A toggle is a range of code that the guest makes writable and executable in turn. The agent does these mprotect(2) itself: it
// takes the toggle (ToggleIdle becomes ToggleBusy with the number of its slot), makes the system call, and stores the
// protection. Where it finds another state, before or after, the supervisor does the system call, perhaps once more.
const (
	ToggleSize = 64 // of one, in bytes

	// Offsets.
	ToggleLo    = 0x00 // its address
	ToggleLen   = 0x08 // in bytes, a multiple of PageSize
	ToggleState = 0x10 // u32
	ToggleCount = 0x14 // u32: how often the agent has changed the protection
	ToggleNext  = 0x18 // address of the next one of the address space, 0: none
	ToggleProt  = 0x20 // 16 bytes that are all the protection, with ToggleExec while that has PROT_EXEC; see translate.WordSize

	// States.
	ToggleFree   = 0       // not in use
	ToggleIdle   = 1       // in use, no thread is at work on it
	ToggleBroken = 2       // was taken out of use while a thread was at work on it, which makes it free
	ToggleBusy   = 1 << 31 // with the slot of the thread that is at work on it

	ToggleExec = 0x80
)

// Parts of a slot, as offsets.
const (
	Scratch     = 0x1000 // arguments of remote system calls
	ScratchSize = 0x1000
	AgentStack  = 0x4000 // end of the agent's stack, which begins at 0x2000
	FrameArea   = 0x4000 // signal frames that the supervisor builds
	FrameEnd    = 0x8000
	AltStack    = 0x8000 // the signal stack of the agent
	AltStackEnd = SlotSize
)

// Offsets in a thread context.
const (
	Self      = 0x00 // its own address
	S         = 0x08 // rcx, wherever control enters translated code and while an indirect branch is in flight
	T         = 0x10 // target of the indirect branch in flight, if it uses the hash
	X0        = 0x18 // scratch of rewritten instructions
	X1        = 0x20
	GuestGS   = 0x28 // the guest's GS base
	Stub      = 0x30 // u32: the exit stub that was left, as an offset in the code cache
	Fuel      = 0x34 // u32: how often checked code may be entered until the supervisor wants to know where that is
	AgentSP   = 0x38 // top of the agent's stack
	InAgent   = 0x40 // u32: signals are put off
	InGate    = 0x44 // u32: in a system call of the guest
	Pending   = 0x48 // u32: a signal was put off, everything is blocked; Deferred
	SetMask   = 0x4c // u32: the kernel's mask must be set to Mask before the guest continues
	Next      = 0x50 // original address after the system call in the gate
	GateRAX   = 0x58 // its number
	Mask      = 0x60 // the kernel's signal mask while the guest runs
	Frame     = 0x68 // address of the signal frame
	SigNo     = 0x70 // u32
	Slot      = 0x74 // u32: number of the slot, from 1
	PID       = 0x78 // u32, as the guest sees itself
	TID       = 0x7c
	RAX       = 0x80
	RCX       = 0x88
	RDX       = 0x90
	RBX       = 0x98
	RSP       = 0xa0
	RBP       = 0xa8
	RSI       = 0xb0
	RDI       = 0xb8
	R8        = 0xc0
	R9        = 0xc8
	R10       = 0xd0
	R11       = 0xd8
	R12       = 0xe0
	R13       = 0xe8
	R14       = 0xf0
	R15       = 0xf8
	RIP       = 0x100 // cache address to continue at
	RFLAGS    = 0x108
	Child     = 0x110 // context of the thread that OpClone makes
	SigStack  = 0x118 // stack_t of the agent's signal stack, 24 bytes
	GuardLo   = 0x130 // a system call with an argument in the GuardSize bytes from here is handed off; see PassGuarded
	GuardSize = 0x138
	State     = 0x140 // u32, a futex
	Kind      = 0x144 // u32
	Link      = 0x148 // u32: next slot on the doorbell's list
	Op        = 0x14c // u32
	Count     = 0x150 // u32: system calls in Vector
	Stepped   = 0x154 // u32: the agent has cleared TF in rflags
	Blocked   = 0x158 // signals of SyncMask that the guest blocks
	NewMask   = 0x160 // what Mask and Blocked become by the rt_sigprocmask in the gate
	NewBlock  = 0x168
	Held      = 0x170 // u32: the supervisor holds signals that are pending
	Class     = 0x174 // u32: what the gate does with the system call, as Pass
	Toggle    = 0x178 // address of the first toggle of the address space, 0: none
	Call      = 0x180 // one system call: number, six arguments, result
	Hold      = 0x1c0 // u32: system calls of the guest are handed off, before they are done or then; it is looked at after InGate was stored
	Vector    = 0x200 // MaxVector system calls
	Deferred  = 0x600 // siginfo of the signal that was put off, 128 bytes
	Vectors   = 0x680 // xmm0 and xmm1 while code is checked
	NoTables  = 0x6a0 // u32: no lookup tables are mapped
	CallSize  = 64
	MaxVector = 16
)

// State of a mailbox.
const (
	StateRun     = 0 // the thread runs, or works on an answer
	StateRequest = 1 // it waits for an answer
	StateReply   = 2 // the answer is there
	StateTaken   = 4 // a server works on the request
	StateDone    = 3 // OpRemote is done; it waits for the next answer
)

// Kind of a request.
const (
	KindMiss     = 1  // exit stub of a direct branch
	KindSpecial  = 2  // exit stub of an instruction to emulate
	KindSyscall  = 3  // a system call of the guest that the supervisor handles
	KindFailed   = 4  // a system call of the guest failed with EFAULT, or with EINTR although no handler was called
	KindSignal   = 5  // a signal arrived; Frame, SigNo
	KindDone     = 6  // OpGate, OpClone or OpExec is done (exec: failed); Call has the result
	KindStart    = 7  // first request of a new thread, process or program
	KindFault    = 8  // the agent itself faulted: a defect
	KindOpened   = 9  // a system call of the guest has opened a file of a proc file system; RAX is the descriptor
	KindDeferred = 10 // before the guest continues, the signal in Deferred must be delivered
	KindCalled   = 11 // a system call of the guest has run, the result is in RAX; a signal was put off meanwhile, or TF cleared, or Hold set
)

// What the gate does with a system call.
const (
	PassNever   = 0 // hand it to the supervisor
	Pass        = 1 // straight to the kernel, unless an argument lies in the guarded range
	PassOpen    = 2 // the same, and look at the file that it opens
	PassIoctl   = 4 // the same as Pass, unless the second argument is IoctlHandedOff
	PassGuarded = 3 // the same as Pass, but not while there is a guarded range: it stores through pointers in memory
)

// IoctlHandedOff is USERFAULTFD_IOC_NEW of linux/userfaultfd.h.
const IoctlHandedOff = 0xaa00

// Op of an answer.
const (
	OpResume    = 1
	OpRemote    = 2
	OpSigreturn = 3
	OpGate      = 4
	OpClone     = 5
	OpExec      = 6
	OpExit      = 7
	OpInt80     = 9  // the same by int 0x80, with the registers eax ebx ecx edx esi edi ebp in Call
	OpFinish    = 8  // the system call in Call, its result to the guest's rax, and resume
	OpRaise     = 10 // continue at address 0, with all signals blocked but those that instructions raise
	OpAttempt   = 11 // OpFinish, but an error is reported with KindDone instead
	OpTouch     = 12 // read a byte at the first argument of Call, whose result is 0 or an error; then as OpRemote
)

// BlockMask is the kernel mask of the agent: everything but the signals that instructions raise
// (ILL, TRAP, BUS, FPE, SEGV, SYS), which must reach it always. Bit n-1 is signal n.
const (
	SyncMask  = 1<<(4-1) | 1<<(5-1) | 1<<(7-1) | 1<<(8-1) | 1<<(11-1) | 1<<(31-1)
	BlockMask = ^uint64(SyncMask)
)
