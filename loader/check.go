//go:build !plan9

package loader

import (
	"fmt"
	"strings"
)

// The near zone: where the images of a guest live. An address in it fits a
// sign-extended 32-bit immediate and has entries in both lookup tables.
const (
	NearLow  = 0x1_0000
	NearHigh = 0x4000_0000
)

// fixedBelow separates images that the kernel placed from those that are linked to their address: it
// places none lower (the mapping base of mmap's bottom-up layout, arch/x86/mm/mmap.c).
const fixedBelow = 1 << 45

// Info describes a file that can be executed.
type Info struct {
	Path      string   // the ELF file that runs; the last interpreter if Scripts is not empty
	Scripts   []string // the #! files on the way to Path, in the order the kernel reads them
	Args      []string // what #! lines put in front of the first script's name: interpreters and arguments
	Type      Type
	Interp    string // PT_INTERP, or "" for a static program
	StaticPIE bool   // position-independent without an interpreter
	Entry     uint64 // e_entry
	Low, High uint64 // page-aligned extent of the PT_LOAD segments, as linked
	Align     uint64 // largest alignment of a PT_LOAD segment
	ExecStack bool   // PT_GNU_STACK asks for an executable stack
	UID, GID  int    // whose rights the set-user-ID and set-group-ID bits give; -1: there is no such bit, or the mount ignores it
}

// Lost describes the rights that the program would have natively by its set-user-ID and set-group-ID bits, where a process
// with these effective ids executes it; "" if there are none. The kernel ignores the bits when the tracer of the program
// lacks CAP_SYS_PTRACE (execve(2), ptrace(2)).
func (i *Info) Lost(euid, egid int) string {
	var bits []string
	if i.UID >= 0 && i.UID != euid {
		bits = append(bits, fmt.Sprintf("set-user-ID %d", i.UID))
	}
	if i.GID >= 0 && i.GID != egid {
		bits = append(bits, fmt.Sprintf("set-group-ID %d", i.GID))
	}
	if len(bits) == 0 {
		return ""
	}
	return fmt.Sprintf("%q runs without its privilege (%s), as under any tracer", i.Path, strings.Join(bits, ", "))
}

// Origin says from where the names of files are looked up. The zero Origin is
// the calling process.
type Origin struct {
	Dir string // where relative names start; "" is the working directory
	PID int    // look up as this process does: its directories, its /proc/self
}

// Check reports whether execve of path would succeed and xv can run the
// outcome. An error is an *Error, except where the platform is unsupported.
func Check(path string) (*Info, error) { return Origin{}.Check(path) }

// fitsNear reports whether xv has a place for an image.
func fitsNear(path string, img *image) error {
	const zone = NearHigh - NearLow
	switch {
	case img.typ == Exec && img.low < NearLow:
		return outside(path, img.low)
	case img.typ == Exec && img.high > fixedBelow:
		return outside(path, img.high)
	case img.typ == Dyn && img.high-img.low > zone:
		e := refuse(path, 0, "its segments span %d MiB, more than the near zone's %d MiB", (img.high-img.low)>>20, zone>>20)
		e.Field = "p_memsz"
		return e
	}
	return nil
}

func outside(path string, addr uint64) error {
	e := refuse(path, 0, "non-PIE with an address of %#x, which xv needs (it leaves %#x-%#x)", addr, uint64(NearLow), uint64(fixedBelow))
	e.Field = "p_vaddr"
	return e
}
