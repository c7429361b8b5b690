//go:build linux && amd64

package virt

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/reloc"
)

// firstHome is the home of a program that was just executed, with the size of the cache that is configured.
func (s *Session) firstHome() abi.Home {
	home := abi.First
	if s.cfg.CacheSize > 0 {
		home.CacheSize = min((uint64(s.cfg.CacheSize)+0xffff)&^0xffff, abi.MaxCache)
	}
	return home
}

// homeBeside is the home of a program that was just executed, with these mappings: firstHome, or where there is room.
func (s *Session) homeBeside(maps []loader.VMA) (abi.Home, error) {
	home := s.firstHome()
	if _, taken := mappingIn(maps, home.Base, home.End()); !taken {
		return home, nil
	}
	away, ok := reloc.Away(maps, home, 0, 0)
	if !ok {
		return home, noRoom(maps)
	}
	return away, nil
}

// mappingIn returns the first mapping with memory in [lo, hi).
func mappingIn(maps []loader.VMA, lo, hi uint64) (v loader.VMA, ok bool) {
	i := slices.IndexFunc(maps, func(v loader.VMA) bool { return v.Start < hi && v.End > lo })
	if i < 0 {
		return v, false
	}
	return maps[i], true
}

// noRoom is the error about memory in which there is no room for a region. It names the largest mapping where it could be.
func noRoom(maps []loader.VMA) error {
	var largest loader.VMA
	for _, v := range maps {
		v.Start, v.End = max(v.Start, abi.NearFirst), min(v.End, abi.HomeEnd)
		if v.Start < v.End && v.Len() > largest.Len() {
			largest = v
		}
	}
	size := abi.Home{CacheSize: abi.MinCache}.End()
	return fmt.Errorf("xv needs %#x bytes from %#x to %#x, in one piece: the program's memory at %#x-%#x and elsewhere leaves none",
		size, uint64(abi.NearFirst), uint64(abi.HomeEnd), largest.Start, largest.End)
}

// settle gives an address space in which nothing was mapped for xv yet another home. th is its only thread.
func (th *thread) settle(home abi.Home) error {
	as := th.p.as
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.code.home == home {
		return nil
	}
	code, err := th.p.s.newCodeSpace(home, as.code.native)
	if err != nil {
		return err
	}
	as.code.close()
	as.code = code
	th.ctx.addr = home.Slot(th.slot)
	th.ctx.locate()
	return nil
}

// mapAgent maps agent and contexts at a home by the calls of c, a thread of b. If unpassed is true the gate hands off every
// system call.
func (s *Session) mapAgent(c caller, b borrower, home abi.Home, unpassed bool) error {
	parts := []mapping{
		{s.agent, home.Agent(), abi.AgentSize, 0, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_FIXED_NOREPLACE},
		s.contextPart(home, unix.MAP_FIXED_NOREPLACE),
	}
	if unpassed {
		nothing, err := s.tableOfNothing()
		if err != nil {
			return err
		}
		parts = append(parts, mapping{nothing, home.Agent() + abi.PassPage, abi.PageSize, 0, unix.PROT_READ, unix.MAP_FIXED})
	}
	return mapParts(c, b, parts)
}

// contextPart is where the contexts are mapped at a home.
func (s *Session) contextPart(home abi.Home, flags uint64) mapping {
	return mapping{s.contexts, home.Contexts(), abi.ContextsSize, 0, unix.PROT_READ | unix.PROT_WRITE, flags}
}

// narrow is what halted threads need of a region: the agent, and the contexts that are in use.
func (s *Session) narrow(home abi.Home) extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return extent{home.Base, home.Slot(s.nextSlot)}
}

// awayFrom is the home for an address space with these mappings, whose home is from, that is out of [lo, hi). Its cache is as large as it can be
// there, up to the size at the start.
func (s *Session) awayFrom(maps []loader.VMA, from abi.Home, lo, hi uint64) (to abi.Home, ok bool) {
	want := from
	want.CacheSize = s.firstHome().CacheSize
	if to, ok = reloc.Away(maps, want, lo, hi); ok {
		return to, true
	}
	kept := s.narrow(from) // the new region may have the place of the rest
	maps = slices.DeleteFunc(slices.Clone(maps), func(v loader.VMA) bool { return v.Start >= from.Base && v.Start < from.End() })
	i, _ := slices.BinarySearchFunc(maps, kept.lo, compareStart)
	if to, ok = reloc.Away(slices.Insert(maps, i, loader.VMA{Start: kept.lo, End: kept.hi}), want, lo, hi); ok {
		return to, true
	}
	for to = from; to.End() > lo && to.CacheSize > abi.MinCache; { // it stays, with a smaller cache
		to.CacheSize = max(to.CacheSize/2&^(abi.PageSize-1), abi.MinCache)
	}
	return to, to.End() <= lo
}
