package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"syscall"

	"xvrun/xv"
)

// inheritance is what a program executed in xvrun's place would have got and
// the Go runtime hides or changes.
type inheritance struct {
	env     []string
	files   []*os.File // from descriptor 3
	ignored []syscall.Signal
}

func inherit() *inheritance {
	return &inheritance{env: environ(), files: descriptors(), ignored: ignored()}
}

func (i *inheritance) pass(cmd *xv.Cmd) {
	cmd.Env, cmd.ExtraFiles, cmd.Ignore = i.env, i.files, i.ignored
}

// environ returns the environment with its duplicates, which os.Environ drops.
func environ() []string {
	text, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return os.Environ()
	}
	env := strings.Split(string(text), "\x00")
	return env[:len(env)-1] // each string ends with a zero
}

// descriptors returns the inherited descriptors from 3 on: those that are not
// close-on-exec, as the runtime's own all are. The runtime opens /dev/null on
// standard descriptors that are closed (runtime.checkfds); nothing tells these
// from ones that the caller opened.
func descriptors() []*os.File {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < 3 {
			continue
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno != 0 || flags&syscall.FD_CLOEXEC != 0 {
			continue
		}
		for len(files) <= fd-3 {
			files = append(files, nil)
		}
		files[fd-3] = os.NewFile(uintptr(fd), "descriptor "+name)
	}
	return files
}

const lastSignal = 64

// sigIgn is SIG_IGN (signal(7)).
const sigIgn = 1

// ignored returns the signals that xvrun was started with ignored. The runtime
// leaves only some of them so; for the others it puts its handler in place and
// keeps what it found in the variable runtime.fwdSig, which the symbol table
// locates. In an executable that was stripped those are lost.
func ignored() []syscall.Signal {
	var list []syscall.Signal
	found := forwarded()
	current := currentlyIgnored()
	for n := 1; n <= lastSignal; n++ {
		if current>>(n-1)&1 != 0 || n < len(found) && found[n] == sigIgn {
			list = append(list, syscall.Signal(n))
		}
	}
	return list
}

// currentlyIgnored reads the set of ignored signals from /proc (proc_pid_status(5)).
func currentlyIgnored() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("\nSigIgn:\t"))
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(value), 16, 64)
	if err != nil {
		return 0
	}
	return set
}

// forwarded returns the contents of runtime.fwdSig, by signal, or nil.
func forwarded() []uint64 {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil
	}
	defer exe.Close()
	info, err := exe.Stat()
	if err != nil {
		return nil
	}
	// Reading would take a page of the heap for each page of the file. It stays
	// mapped: unmapping interrupts the other processors.
	image, err := syscall.Mmap(int(exe.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	addr, size := findSymbol(image, "runtime.fwdSig")
	if addr == 0 || size == 0 || size > 1024 {
		return nil
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil
	}
	defer mem.Close()
	raw := make([]byte, size)
	if _, err := mem.ReadAt(raw, int64(addr)); err != nil {
		return nil
	}
	handlers := make([]uint64, size/8)
	for i := range handlers {
		handlers[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return handlers
}

// findSymbol returns the address and the size of a symbol of a non-PIE
// executable, given as its file. It looks through the two tables by hand,
// because debug/elf allocates each symbol.
func findSymbol(exe []byte, name string) (addr, size uint64) {
	const (
		typeExec              = 2 // ET_EXEC: symbol values are addresses
		ehdrSize, sectionSize = 64, 64
		symtab, symbolSize    = 2, 24 // SHT_SYMTAB
	)
	le := binary.LittleEndian
	part := func(off, n uint64) []byte {
		if off > uint64(len(exe)) || n > uint64(len(exe))-off {
			return nil
		}
		return exe[off : off+n]
	}
	if len(exe) < ehdrSize || le.Uint16(exe[16:]) != typeExec {
		return 0, 0
	}
	sections := part(le.Uint64(exe[40:]), sectionSize*uint64(le.Uint16(exe[60:])))
	table := func(i int) []byte {
		if (i+1)*sectionSize > len(sections) {
			return nil
		}
		s := sections[i*sectionSize:]
		return part(le.Uint64(s[24:]), le.Uint64(s[32:]))
	}
	for i := 0; i*sectionSize < len(sections); i++ {
		s := sections[i*sectionSize:]
		if le.Uint32(s[4:]) != symtab {
			continue
		}
		at := bytes.Index(table(int(le.Uint32(s[40:]))), []byte("\x00"+name+"\x00")) + 1
		if at == 0 {
			return 0, 0
		}
		for symbols := table(i); len(symbols) >= symbolSize; symbols = symbols[symbolSize:] {
			if le.Uint32(symbols) == uint32(at) {
				return le.Uint64(symbols[8:]), le.Uint64(symbols[16:])
			}
		}
	}
	return 0, 0
}
