//go:build !plan9

// Package virt is the virtualization state of a guest: its processes, threads and address spaces, the
// system calls that the supervisor handles, signals, and the start of programs.
//
// A guest's thread and the supervisor meet in hand-offs (package agent/abi). A server thread for each
// CPU answers them; several hand-offs are handled at the same time, one at most for each guest thread.
//
// Locks, in the order in which they may be taken: thread.hostMu, addressSpace.mu, the cache's own lock, pageTools.mu,
// addressSpace.rangesMu, Session.mu. Session.handing comes before all of them, way.mu is held alone. A callback of the host is
// called with none, but for pageTool.filling of a pager.
package virt

import (
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"xvrun/xv/trap"
)

// Config says what to run.
type Config struct {
	Path       string           // file to execute
	Argv       []string         // arguments, with the program's name first
	Env        []string         // environment, as in os.Environ
	Dir        string           // working directory; "": the caller's
	Files      []*os.File       // descriptors 0, 1, ...; nil: closed
	Trace      io.Writer        // trace of translation and system calls; nil: none
	Warn       func(string)     // called with what will differ from a native run and with the first error of Trace, one call at a time; nil: not
	CacheSize  int              // bytes of the translation cache; 0: the largest
	HighImages bool             // images are placed above 5 * 2^40, for programs that use addresses below 2 GiB themselves
	NoTables   bool             // there are no lookup tables, from the start: programs may have memory at any address. Otherwise they go when one wants memory at their place
	FarRegion  bool             // the region is in a far home at first, and where it moves to random places
	Returns    Returns          // what calls leave on the guest's stacks
	StoreDir   string           // where translations are kept for later runs; "": nowhere
	Ignored    []syscall.Signal // signals that the first process ignores
	Limits     []Limit          // of the first process, where they aren't the caller's
	Setpgid    bool             // the first process leads a process group of its own

	// OnFault is called at each fault of the guest, by several goroutines at a time; nil: not.
	OnFault func(*trap.Context) trap.Action
}

// Returns says what calls leave on the guest's stacks.
type Returns uint8

const (
	// TransparentReturns: the original return addresses. The guest can't tell.
	TransparentReturns Returns = iota
	// NativeReturns: those of the translated code, so that calls and returns take the time that they take natively. A guest that uses
	// return addresses for more than returning fails, or does not find what it looks for: see docs/supported.md.
	NativeReturns
	// AutoReturns: NativeReturns until the guest shows that it reads return addresses, or may do so, and TransparentReturns from then on.
	AutoReturns
)

var returnsNames = [...]string{TransparentReturns: "transparent", NativeReturns: "native", AutoReturns: "auto"}

// MarshalText implements encoding.TextMarshaler: transparent, native or auto.
func (r Returns) MarshalText() ([]byte, error) {
	if int(r) >= len(returnsNames) {
		return nil, fmt.Errorf("no kind of return addresses: %d", r)
	}
	return []byte(returnsNames[r]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Returns) UnmarshalText(text []byte) error {
	i := slices.Index(returnsNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("%q is neither transparent nor native nor auto", text)
	}
	*r = Returns(i)
	return nil
}

// native reports whether programs begin with native returns.
func (r Returns) native() bool { return r != TransparentReturns }

// variant names the translations that programs begin with.
func (r Returns) variant() string {
	if r.native() {
		return "native returns"
	}
	return ""
}

// PageTool is what Watch, Page and TrackDirty have started.
type PageTool interface {
	Close() error             // ends it
	Dirty() ([]uint64, error) // of TrackDirty: pages written since the last call
}

// Relocation says how an address space moves. All of the region, 512 MiB if the cache has its full size, must lie between 0x1000_0000 and
// 0x7ffc_0000, or between 0x4_7ffc_0000 and the end of the address space at 0x7fff_ffff_f000.
type Relocation struct {
	PID  int    // a process in it, as the host sees it; 0: every one
	Base uint64 // where the new region begins, a multiple of 4096; 0: a random place
	Far  bool   // the random place is far above the lookup tables; otherwise it is below 2 GiB, if there is room, and Config.FarRegion does not say far
	Keep Keeping

	Transparent bool // from now on calls leave original return addresses; what is kept of the translations is made again
	NoTables    bool // from now on there are no lookup tables, see Config.NoTables; likewise
}

// Keeping says which translations an address space takes along when it moves. The others are made again as they are needed.
type Keeping uint8

// The values of Keeping.
const (
	KeepAll     Keeping = iota // all; as KeepHot where the new place has a cache of another size
	KeepHot                    // those in use, see xv.KeepHot
	KeepNothing                // none
)

// Relocated says how an address space has moved.
type Relocated struct {
	PID      int           // a process in it
	From, To uint64        // where the region begins
	Pause    time.Duration // in which no thread could run
}

// Limit is a resource limit (getrlimit(2)).
type Limit struct {
	Resource   int    // RLIMIT_AS, ...
	Soft, Hard uint64 // all ones: none
}

// Status is how the first process ended.
type Status struct {
	syscall.WaitStatus
	Rusage *syscall.Rusage
}

// Stats counts what a session did so far.
type Stats struct {
	Regions         uint64        // regions translated
	Instructions    uint64        // original instructions in them
	Restored        uint64        // instructions in regions that an earlier run translated
	CacheBytes      uint64        // bytes of the cache in use or used
	LinkMisses      uint64        // first uses of a direct branch
	JumpMisses      uint64        // indirect jumps and returns to a target without an entry
	CallMisses      uint64        // indirect calls likewise
	Handoffs        uint64        // requests of guest threads
	Traps           uint64        // of these, signals that arrived in translated code
	SystemCalls     uint64        // system calls that the supervisor handled
	Collections     uint64        // times that a cache was full
	Kept            uint64        // regions that were kept then, or by Relocate
	TranslationTime time.Duration // spent in misses
	Processes       int           // processes and programs started
	Threads         int           // threads started
}
