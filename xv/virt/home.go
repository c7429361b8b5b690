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
	if s.cfg.FarRegion {
		home.Base = reloc.Far.Lo
	}
	if s.cfg.CacheSize > 0 {
		home.CacheSize = min((uint64(s.cfg.CacheSize)+0xffff)&^0xffff, abi.MaxCache)
	}
	return home
}

// homeBeside is the home of a program that was just executed, with these mappings: firstHome, or where there is room.
func (s *Session) homeBeside(maps []loader.VMA) (abi.Home, error) {
	home := s.firstHome()
	var code ranges
	for _, v := range maps {
		if v.Prot&loader.ProtExec != 0 {
			code = append(code, codeRange{v.Start, v.End, v.Prot})
		}
	}
	maps = besideLookups(maps, code)
	if _, taken := mappingIn(maps, home.Base, home.End()); !taken {
		return home, nil
	}
	away, ok := s.awayFrom(maps, home, 0, 0)
	if !ok {
		return home, errNoRoom
	}
	return away, nil
}

// zones are where regions are placed, in the order in which they are tried.
func (s *Session) zones(far bool) []reloc.Zone {
	if far || s.cfg.FarRegion {
		return []reloc.Zone{reloc.Far}
	}
	return []reloc.Zone{reloc.Low, reloc.Far}
}

// awayFrom is the home for an address space with these mappings, whose home is from, that is out of [lo, hi). Its cache is as large as it can be
// there, up to the size at the start.
func (s *Session) awayFrom(maps []loader.VMA, from abi.Home, lo, hi uint64) (to abi.Home, ok bool) {
	from.CacheSize = s.firstHome().CacheSize
	for _, z := range s.zones(false) {
		if to, ok = reloc.Away(maps, from, z, lo, hi); ok {
			break
		}
	}
	return to, ok
}

// errNoRoom is the error about memory in which there is no room for a region.
var errNoRoom = fmt.Errorf("xv needs memory in one piece from %#x to %#x, or from %#x to %#x: there is none",
	reloc.Low.Lo, reloc.Low.Hi, reloc.Far.Lo, reloc.Far.Hi)

// mappingIn returns the first mapping with memory in [lo, hi).
func mappingIn(maps []loader.VMA, lo, hi uint64) (v loader.VMA, ok bool) {
	i := slices.IndexFunc(maps, func(v loader.VMA) bool { return v.Start < hi && v.End > lo })
	if i < 0 {
		return v, false
	}
	return maps[i], true
}

// settle gives an address space in which nothing was mapped for xv yet another home. th is its only thread.
func (th *thread) settle(home abi.Home, hashed bool) error {
	as := th.p.as
	as.mu.Lock()
	defer as.mu.Unlock()
	f := as.code.form
	f.hashed = f.hashed || hashed
	if as.code.home == home && as.code.form == f {
		return nil
	}
	code, err := th.p.s.newCodeSpace(home, f)
	if err != nil {
		return err
	}
	as.code.close()
	as.code = code
	th.ctx.addr = home.Slot(th.slot)
	th.ctx.locate()
	th.setNoTables(f.hashed)
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
