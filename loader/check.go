package loader

import "fmt"

// The near zone: where the images of a guest live. An address in it fits a
// sign-extended 32-bit immediate and has entries in both lookup tables.
const (
	NearLow  = 0x1_0000
	NearHigh = 0x4000_0000
)

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
	Setuid    bool   // the file has the set-user-ID bit
	Setgid    bool   // the file has the set-group-ID bit
}

// Warning returns a line about what will differ from a native run, or "".
// The kernel ignores set-user-ID and set-group-ID bits when the tracer of the
// program lacks CAP_SYS_PTRACE (execve(2), ptrace(2)).
func (i *Info) Warning() string {
	if !i.Setuid && !i.Setgid {
		return ""
	}
	return fmt.Sprintf("%q: set-user-ID and set-group-ID bits have no effect under translation", i.Path)
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
	case img.typ == Exec && img.high > NearHigh:
		return outside(path, img.high)
	case img.typ == Dyn && img.high-img.low > zone:
		e := refuse(path, 0, "its segments span %d MiB, more than the near zone's %d MiB", (img.high-img.low)>>20, zone>>20)
		e.Field = "p_memsz"
		return e
	}
	return nil
}

func outside(path string, addr uint64) error {
	e := refuse(path, 0, "non-PIE with an address of %#x, outside of the near zone %#x-%#x", addr, uint64(NearLow), uint64(NearHigh))
	e.Field = "p_vaddr"
	return e
}
