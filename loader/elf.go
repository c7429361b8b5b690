//go:build !plan9

package loader

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"syscall"
)

// Type is the object file type of an executable (gABI, e_type).
type Type uint16

// The two types that execve accepts.
const (
	Exec Type = 2 // ET_EXEC: bound to its addresses, "non-PIE"
	Dyn  Type = 3 // ET_DYN: position-independent
)

const (
	ehdrSize     = 64
	phdrSize     = 56
	maxPhdrBytes = 65536 // the kernel's limit in load_elf_phdrs
	pathMax      = 4096  // PATH_MAX, the kernel's limit for PT_INTERP
	pageSize     = 4096
	userEnd      = 1<<47 - pageSize // TASK_SIZE with 4-level paging

	classOffset = 4 // EI_CLASS in e_ident
	dataOffset  = 5 // EI_DATA
	class32     = 1
	dataMSB     = 2

	machineX8664 = 62

	ptLoad     = 1
	ptInterp   = 3
	ptGNUStack = 0x6474e551

	pfX = 1
)

// image is what the headers of one ELF file say.
type image struct {
	typ       Type
	entry     uint64
	interp    string
	low, high uint64 // page-aligned extent of all PT_LOAD segments
	align     uint64 // largest p_align of a PT_LOAD segment
	execStack bool
}

// parseELF reads the headers of an ELF file as load_elf_binary
// (fs/binfmt_elf.c) does. It refuses what the kernel refuses, and in addition
// what could only fault when it runs.
func parseELF(path string, r io.ReaderAt, size int64) (*image, error) {
	var ehdr [ehdrSize]byte
	if size < ehdrSize {
		return nil, corrupt(path, "e_ehsize", uint64(size), "a file of at least 64 bytes")
	}
	if _, err := r.ReadAt(ehdr[:], 0); err != nil {
		return nil, unreadable(path, err)
	}
	if err := checkMachine(path, ehdr[:]); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	img := &image{typ: Type(le.Uint16(ehdr[16:])), entry: le.Uint64(ehdr[24:])}
	if img.typ != Exec && img.typ != Dyn {
		return nil, corrupt(path, "e_type", uint64(img.typ), "2 (ET_EXEC) or 3 (ET_DYN)")
	}
	phoff, phnum := le.Uint64(ehdr[32:]), int(le.Uint16(ehdr[56:]))
	n := phnum * phdrSize
	if phnum == 0 || n > maxPhdrBytes {
		return nil, corrupt(path, "e_phnum", uint64(phnum), fmt.Sprintf("1 to %d", maxPhdrBytes/phdrSize))
	}
	if !within(phoff, uint64(n), size) {
		return nil, corrupt(path, "e_phoff", phoff, "program headers inside of the file")
	}
	table := make([]byte, n)
	if _, err := r.ReadAt(table, int64(phoff)); err != nil {
		return nil, unreadable(path, err)
	}
	if err := img.parseSegments(path, table, r, size); err != nil {
		return nil, err
	}
	return img, nil
}

// checkMachine tells an x86-64 executable from others. The kernel looks at
// e_machine and e_phentsize only; a file whose EI_CLASS or EI_DATA says
// otherwise is taken by its word, as dynamic linkers do.
func checkMachine(path string, ehdr []byte) error {
	le := binary.LittleEndian
	machine, phentsize := le.Uint16(ehdr[18:]), le.Uint16(ehdr[54:])
	bigEndian := ehdr[dataOffset] == dataMSB
	if other := binary.BigEndian.Uint16(ehdr[18:]); bigEndian && machine != machineX8664 {
		machine = other
	}
	e := refuse(path, syscall.ENOEXEC, "")
	switch {
	case ehdr[classOffset] == class32 && machine == machineX8664 && phentsize != phdrSize:
		e.Field, e.Reason = "EI_CLASS", "32-bit ELF (x32 ABI)"
	case ehdr[classOffset] == class32:
		e.Field, e.Reason = "EI_CLASS", "32-bit ELF ("+machineName(machine)+")"
	case machine != machineX8664:
		e.Field, e.Reason = "e_machine", "built for "+machineName(machine)+", not x86-64"
	case bigEndian:
		e.Field, e.Reason = "EI_DATA", "big-endian ELF"
	case phentsize != phdrSize:
		return corrupt(path, "e_phentsize", uint64(phentsize), "56")
	default:
		return nil
	}
	return e
}

func (img *image) parseSegments(path string, table []byte, r io.ReaderAt, size int64) error {
	le := binary.LittleEndian
	loads := 0
	for ; len(table) >= phdrSize; table = table[phdrSize:] {
		flags, offset := le.Uint32(table[4:]), le.Uint64(table[8:])
		vaddr, filesz, memsz := le.Uint64(table[16:]), le.Uint64(table[32:]), le.Uint64(table[40:])
		align := le.Uint64(table[48:])
		switch le.Uint32(table) {
		case ptLoad:
			if memsz == 0 && filesz == 0 {
				continue
			}
			switch {
			case filesz > memsz:
				return corrupt(path, "p_filesz", filesz, fmt.Sprintf("at most p_memsz, %#x", memsz))
			case memsz > userEnd || vaddr > userEnd-memsz:
				return corrupt(path, "p_vaddr", vaddr, fmt.Sprintf("a segment of %#x bytes below %#x", memsz, uint64(userEnd)))
			case filesz > 0 && (offset^vaddr)%pageSize != 0:
				return corrupt(path, "p_offset", offset, fmt.Sprintf("the place in a page of p_vaddr, %#x", vaddr))
			case filesz > 0 && offset >= uint64(size):
				return corrupt(path, "p_offset", offset, "an offset inside of the file")
			}
			low, high := vaddr&^(pageSize-1), (vaddr+memsz+pageSize-1)&^(pageSize-1)
			if loads == 0 || low < img.low {
				img.low = low
			}
			img.high = max(img.high, high)
			// The kernel ignores alignments that are not powers of two (maximum_alignment).
			if bits.OnesCount64(align) == 1 {
				img.align = max(img.align, align)
			}
			loads++
		case ptInterp:
			if img.interp != "" {
				continue // the kernel takes the first
			}
			name, err := readInterp(path, r, size, offset, filesz)
			if err != nil {
				return err
			}
			img.interp = name
		case ptGNUStack:
			img.execStack = flags&pfX != 0
		}
	}
	if loads == 0 {
		return corrupt(path, "PT_LOAD", 0, "at least one segment")
	}
	img.align = max(img.align, pageSize)
	return nil
}

func readInterp(path string, r io.ReaderAt, size int64, offset, filesz uint64) (string, error) {
	if filesz < 2 || filesz > pathMax {
		return "", corrupt(path, "PT_INTERP p_filesz", filesz, fmt.Sprintf("2 to %d", pathMax))
	}
	if !within(offset, filesz, size) {
		return "", corrupt(path, "PT_INTERP p_offset", offset, "a name inside of the file")
	}
	name := make([]byte, filesz)
	if _, err := r.ReadAt(name, int64(offset)); err != nil {
		return "", unreadable(path, err)
	}
	if name[filesz-1] != 0 {
		return "", corrupt(path, "PT_INTERP", uint64(name[filesz-1]), "a name that ends with 0")
	}
	return cString(name), nil
}

// within reports whether [offset, offset+n) lies in a file of the given size.
func within(offset, n uint64, size int64) bool {
	return size >= 0 && n <= uint64(size) && offset <= uint64(size)-n
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func corrupt(path, field string, value uint64, want string) *Error {
	e := refuse(path, syscall.ENOEXEC, "corrupt ELF header: %s is %#x, want %s", field, value, want)
	e.Field = field
	return e
}

func unreadable(path string, err error) *Error {
	return refuse(path, syscall.EIO, "cannot be read: %v", err)
}

// machineName names a value of e_machine (gABI and the processor supplements).
func machineName(m uint16) string {
	switch m {
	case 2, 18, 43:
		return "SPARC"
	case 3, 6:
		return "i386"
	case 4:
		return "m68k"
	case 8:
		return "MIPS"
	case 20:
		return "PowerPC"
	case 21:
		return "PowerPC64"
	case 22:
		return "S/390"
	case 40:
		return "ARM"
	case 50:
		return "IA-64"
	case machineX8664:
		return "x86-64"
	case 183:
		return "AArch64"
	case 243:
		return "RISC-V"
	case 247:
		return "BPF"
	case 258:
		return "LoongArch"
	}
	return fmt.Sprintf("machine %d", m)
}
