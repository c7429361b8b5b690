//go:build linux && amd64

package virt

import (
	"debug/elf"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
)

// With native returns some functions of C libraries would not know who calls them: they look for the library that their return address lies
// in. So branches to their start are never bound and always miss, and the address on the stack is made the original one. The return to it traps.

// asking are these functions. For dlsym(3) with RTLD_NEXT it matters most.
var asking = []string{"dl_iterate_phdr", "dlmopen", "dlopen", "dlsym", "dlvsym"}

// askers are the addresses of such functions.
type askers struct {
	mu    sync.RWMutex
	addrs map[uint64]struct{}
}

// has reports whether such a function is at an address.
func (a *askers) has(addr uint64) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.addrs[addr]
	return ok
}

func (a *askers) add(addr uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addrs == nil {
		a.addrs = map[uint64]struct{}{}
	}
	a.addrs[addr] = struct{}{}
}

// copyFrom makes a have what b has.
func (a *askers) copyFrom(b *askers) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	a.addrs = maps.Clone(b.addrs)
}

// noteAskers looks for such functions in the part of a file from offset that is mapped as code at [lo, hi). name is a path of the file.
func (c *codeSpace) noteAskers(lo, hi uint64, name string, offset uint64) {
	f, err := elf.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X == 0 || offset+(hi-lo) <= p.Off || offset >= p.Off+p.Filesz {
			continue
		}
		symbols, _ := f.DynamicSymbols() // none without a table
		for _, s := range symbols {
			if s.Section == elf.SHN_UNDEF || elf.ST_TYPE(s.Info) != elf.STT_FUNC || !slices.Contains(asking, s.Name) {
				continue
			}
			if at := s.Value - p.Vaddr + p.Off - offset; at < hi-lo {
				c.askers.add(lo + at)
			}
		}
	}
}

// tellCaller makes the return address on the stack the original one if the thread, with the original state regs, is about to enter a function
// that asks for it.
func (th *thread) tellCaller(regs *registers) {
	as := th.p.as
	c := as.enter()
	asks := c.asks(regs.rip)
	as.exit()
	var b [8]byte
	if !asks || th.read(regs.gpr[rsp], b[:]) < len(b) {
		return
	}
	if orig, ok := as.originalReturn(binary.LittleEndian.Uint64(b[:])); ok {
		th.write(regs.gpr[rsp], le64(orig))
	}
}
