//go:build !plan9

package loader

import (
	"bytes"
	"fmt"
	"strconv"
)

// Memory protection bits, as mmap(2) has them.
const (
	ProtRead  = 1
	ProtWrite = 2
	ProtExec  = 4
)

// A VMA is one line of /proc/PID/maps (proc_pid_maps(5)).
type VMA struct {
	Start, End uint64
	Prot       int
	Shared     bool
	Offset     uint64
	Dev        uint64 // major<<32 | minor
	Inode      uint64
	Path       string // as the kernel writes it, newlines as \012; "" for anonymous memory
}

// Len returns the size of the mapping.
func (v VMA) Len() uint64 { return v.End - v.Start }

// Contains reports whether addr lies in the mapping.
func (v VMA) Contains(addr uint64) bool { return v.Start <= addr && addr < v.End }

// special reports whether the kernel made up the name: "[vdso]", "[stack]".
// The name of a file starts with a slash.
func (v VMA) special() bool { return v.Inode == 0 && len(v.Path) > 0 && v.Path[0] == '[' }

// File reports whether a file backs the mapping.
func (v VMA) File() bool { return v.Inode != 0 || len(v.Path) > 0 && v.Path[0] == '/' }

// ParseMaps parses the text of /proc/PID/maps. The mappings come back in
// ascending order. The kernel writes the text a page at a time: a mapping that
// has become a part of a larger one in between shows again with that, and
// counts once.
func ParseMaps(text []byte) ([]VMA, error) {
	maps := make([]VMA, 0, bytes.Count(text, []byte{'\n'})+1)
	for n := 1; len(text) > 0; n++ {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		v, ok := ParseMap(line)
		if !ok {
			return nil, fmt.Errorf("loader: maps line %d: malformed: %q", n, line[:min(len(line), 80)])
		}
		if len(maps) > 0 {
			v.skipTo(maps[len(maps)-1].End)
		}
		if v.Start < v.End {
			maps = append(maps, v)
		}
	}
	return maps, nil
}

// skipTo leaves out what of the mapping is below addr.
func (v *VMA) skipTo(addr uint64) {
	if v.Start < addr {
		if v.File() {
			v.Offset += addr - v.Start
		}
		v.Start = addr
	}
}

// String is the mapping's line, without a newline.
func (v VMA) String() string {
	flags := []byte("---p")
	for i, bit := range []int{ProtRead, ProtWrite, ProtExec} {
		if v.Prot&bit != 0 {
			flags[i] = "rwx"[i]
		}
	}
	if v.Shared {
		flags[3] = 's'
	}
	line := fmt.Sprintf("%08x-%08x %s %08x %02x:%02x %d ", v.Start, v.End, flags, v.Offset, v.Dev>>32, v.Dev&(1<<32-1), v.Inode)
	if v.Path == "" {
		return line
	}
	return fmt.Sprintf("%-*s%s", pathColumn, line, v.Path)
}

// pathColumn is where the kernel begins paths (fs/proc/task_mmu.c: 25 + 6*8 - 1, and a space).
const pathColumn = 73

// Continues reports whether next follows v in memory and in its file, with the same attributes.
func (v VMA) Continues(next VMA) bool {
	joined := v
	joined.Start, joined.End = next.Start, next.End
	if v.File() {
		joined.Offset += v.Len()
	}
	return v.End == next.Start && joined == next
}

// ParseMap parses a line "start-end rwxp offset major:minor inode path", without its newline.
func ParseMap(line []byte) (v VMA, ok bool) {
	var ok1, ok2, ok3, ok4, ok5 bool
	var major, minor uint64
	v.Start, line, ok1 = hexUntil(line, '-')
	v.End, line, ok2 = hexUntil(line, ' ')
	if !ok1 || !ok2 || v.Start >= v.End || (v.Start|v.End)%pageSize != 0 || len(line) < 5 || line[4] != ' ' {
		return v, false
	}
	for i, bit := range []int{ProtRead, ProtWrite, ProtExec} {
		switch line[i] {
		case "rwx"[i]:
			v.Prot |= bit
		case '-':
		default:
			return v, false
		}
	}
	v.Shared = line[3] == 's'
	v.Offset, line, ok3 = hexUntil(line[5:], ' ')
	major, line, ok4 = hexUntil(line, ':')
	minor, line, ok5 = hexUntil(line, ' ')
	if !ok3 || !ok4 || !ok5 || major >= 1<<32 || minor >= 1<<32 {
		return v, false
	}
	v.Dev = major<<32 | minor
	inode, path, _ := bytes.Cut(line, []byte{' '})
	var err error
	if v.Inode, err = strconv.ParseUint(string(inode), 10, 64); err != nil {
		return v, false
	}
	v.Path = string(bytes.TrimLeft(path, " "))
	return v, true
}

// hexUntil parses a hexadecimal number that ends at sep, and skips sep.
func hexUntil(b []byte, sep byte) (n uint64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == sep:
			return n, b[i+1:], i > 0
		case i == 16:
			return 0, b, false
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, b, false
		}
	}
	return 0, b, false
}
