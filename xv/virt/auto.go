//go:build linux && amd64

package virt

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/tcache"
)

// With AutoReturns a program runs with native returns until it shows that it reads return addresses:
//
//   - it, or a library that it loads, has an unwinder or uses one: see readerOf,
//   - it generates code: such programs walk their stacks,
//   - it jumps to a return address: longjmp, or a switch of contexts.
//
// The first two have it wait until all of its return addresses are original ones; at the third it is told nothing wrong, since the jump
// goes on where it should.

// readerOf returns why a program or library may read return addresses, "" if nothing says so.
func readerOf(f *elf.File, program bool) string {
	if len(f.Sections) == 0 {
		return "it has no section headers"
	}
	if program {
		switch {
		case f.Section(".gopclntab") != nil:
			return "it is a Go program"
		case f.Section(".gcc_except_table") != nil:
			return "it handles exceptions"
		}
	}
	symbols, _ := f.DynamicSymbols() // none in a static program, which has no use for an unwinder without tables of exceptions
	for _, s := range symbols {
		switch s.Name {
		case "_Unwind_RaiseException", "_Unwind_Backtrace":
			return "it has or uses an unwinder"
		case "backtrace", "mcount":
			if s.Section == elf.SHN_UNDEF {
				return "it uses " + s.Name
			}
		}
	}
	return ""
}

// reader is readerOf for a file of the guest, by a path that the supervisor can open.
func reader(name string, program bool) string {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "it executes what is no file"
	}
	f, err := elf.Open(name)
	if err != nil {
		return "it executes a file that cannot be read as a program or library"
	}
	defer f.Close()
	return readerOf(f, program)
}

// chooseReturns decides what calls leave on the stacks of a program that th has just executed, before anything of it is translated.
func (th *thread) chooseReturns() {
	c, s := th.p.as.code, th.p.s
	if s.cfg.Returns != AutoReturns {
		return
	}
	why := reader(fmt.Sprintf("/proc/%d/exe", th.tid), true)
	s.trace("%d: native returns: %v%s", th.p.pid, why == "", because(why))
	if why != "" {
		c.native = false
		c.space = tcache.New(c.config())
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ", since " + why
}

// mayRead is called before the guest makes memory executable, of the file fd or, if that is negative, of none. It reports whether the
// handler can go on. Otherwise the request is handled again when calls leave original return addresses.
func (th *thread) mayRead(fd int32) bool {
	s, as := th.p.s, th.p.as
	if s.cfg.Returns != AutoReturns || !as.nativeReturns() || th.p.borrows {
		return true
	}
	why := "it generates code"
	if fd >= 0 {
		why = reader(fmt.Sprintf("/proc/%d/fd/%d", th.tid, fd), false)
	}
	if why == "" || as.way.failure() != nil {
		return true
	}
	if as.changing.Load() { // it takes long: as long as there is a vfork(2), say
		return true
	}
	th.askForMove(func() error {
		err := s.becomeTransparent(th.p, as, why, time.Now().Add(changeLimit))
		if errors.Is(err, errBusy) {
			s.readsReturns(th.p, why)
			err = nil
		}
		return err
	})
	return false
}

// changeLimit is how long a thread waits until calls leave original return addresses. What it waits for may need the thread itself.
const changeLimit = 100 * time.Millisecond

// readsReturns is called when a process has shown that it reads return addresses.
func (s *Session) readsReturns(p *process, why string) {
	as := p.as
	if s.cfg.Returns != AutoReturns || !as.nativeReturns() || !as.changing.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer s.guard(p)
		if err := s.becomeTransparent(p, as, why, time.Time{}); err != nil {
			s.trace("%d: %v", p.pid, err)
		}
	}()
}

// becomeTransparent tries until calls in an address space, in which p is, leave original return addresses, or until a deadline if there
// is one.
func (s *Session) becomeTransparent(p *process, as *addressSpace, why string, deadline time.Time) error {
	s.trace("%d: no native returns from now on, since %s", p.pid, why)
	return s.tryUntilMoved(p, transparently(p, as), Relocation{Keep: KeepHot, Transparent: true}, deadline)
}

// transparently is the chooser of a move after which calls in an address space, in which p is, leave original return addresses. It stays
// where it is: with such return addresses it does not matter that the guest has others that look like those of new code.
func transparently(p *process, as *addressSpace) chooser {
	return func(_ []loader.VMA, from abi.Home) (abi.Home, error) {
		if p.space() != as || !as.code.native { // as.mu is held
			return from, errWayClear
		}
		return from, nil
	}
}

// leaveNative makes the return addresses of all address spaces original ones. It tries once.
func (s *Session) leaveNative() error {
	for _, p := range s.alive() {
		as := p.space()
		if !as.nativeReturns() {
			continue
		}
		_, err := s.tryRelocate(p.pid, transparently(p, as), Relocation{Keep: KeepHot, Transparent: true})
		if err != nil && !errors.Is(err, errWayClear) && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	return nil
}

// anyNative reports whether calls leave return addresses of translated code in some address space.
func (s *Session) anyNative() bool {
	return slices.ContainsFunc(s.alive(), func(p *process) bool { return p.as.nativeReturns() })
}
