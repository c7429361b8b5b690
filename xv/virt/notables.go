//go:build linux && amd64

package virt

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

// Lookup tables are where the addresses of code say. Where the guest needs these places for its own memory, its address space does without from
// then on: all indirect branches use the hash, which is in the region, and so does the agent where it continues the guest after a system call
// (abi.NoTables). That takes a relocation, in which all code is translated again.

// isHashed reports whether there are no tables.
func (as *addressSpace) isHashed() bool {
	as.mu.RLock()
	defer as.mu.RUnlock()
	return !as.closed && as.code.hashed
}

// setNoTables tells the agent.
func (th *thread) setNoTables(hashed bool) {
	no := uint32(0)
	if hashed {
		no = 1
	}
	th.ctx.setU32(abi.NoTables, no)
}

// tablePlaces lists the memory that lookup tables take, or that is kept free in their stead.
func (c *codeSpace) tablePlaces() (list []extent) {
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	for _, m := range c.nearParts(0) {
		list = append(list, extent{m.addr, m.addr + m.size})
	}
	for i := range c.far {
		for _, at := range places(c.home, c.far[i].lo) {
			list = append(list, extent{at, at + farSize})
		}
	}
	return list
}

// dropTables puts the request back until there are no tables, if that is possible. Otherwise it returns why not.
func (th *thread) dropTables() error {
	as := th.p.as
	switch failed := as.way.failure(); {
	case failed != nil:
		return failed
	case th.p.borrows:
		return errors.New("it can't be done without lookup tables while the parent of the process is in vfork(2)")
	}
	th.askForMove(func() error {
		stay := func(_ []loader.VMA, from abi.Home) (abi.Home, error) {
			if th.p.space() != as || as.code.hashed { // as.mu is held
				return from, errWayClear
			}
			return from, nil
		}
		th.p.s.trace("%d: no lookup tables from now on", th.p.pid)
		return th.p.s.tryUntilMoved(th.p, stay, Relocation{Keep: KeepHot, NoTables: true}, time.Time{})
	})
	return nil
}

// overTables reports whether a program that was just executed, with these mappings, has memory where lookup tables would be.
func overTables(maps []loader.VMA) bool {
	return slices.ContainsFunc(lookups(abi.NearStart, abi.NearFirst), func(at extent) bool {
		_, taken := mappingIn(maps, at.lo, at.hi)
		return taken
	})
}

// makeWayInTables has xv do without lookup tables where the guest's request maps memory at their place, which replaces what is there. It reports
// whether the handler can go on, as makeWay; so it can where that is not possible.
func (th *thread) makeWayInTables(lo, hi uint64) bool {
	return !th.p.as.inTables(lo, hi) || th.dropTables() != nil
}

// lookedUpIn returns memory of the guest that is where code at [lo, hi), which no tables cover, would be looked up.
func (th *thread) lookedUpIn(lo, hi uint64) (v loader.VMA, found bool) {
	for at := lo; at < hi; at = at&^(farGrain-1) + farGrain {
		end := min(hi, at&^(farGrain-1)+farGrain)
		c := th.p.as.enter()
		covered := c.hashed || c.slot(at, false) != nil || c.hasFar(at)
		th.p.as.exit()
		if covered {
			continue
		}
		for _, key := range []uint64{at, at + translate.CallBias} {
			first := abi.Entry(key)
			if first >= userLimit {
				continue
			}
			if v, ok, err := th.mappingFrom(first); err == nil && ok && v.Prot&loader.ProtRead != 0 && v.Start < first+abi.EntrySize*(end-at) {
				return v, true
			}
		}
	}
	return v, false
}

// lookupsFault makes sure that the lookup of code in [lo, hi) that no tables cover faults: what the guest has at the place of its
// entries would be taken for them.
func (th *thread) lookupsFault(lo, hi uint64) error {
	if v, found := th.lookedUpIn(lo, hi); found {
		return fmt.Errorf("process %d: code at %#x-%#x cannot be translated: the memory at %#x-%#x is where "+
			"xv looks it up; have the program place one of the two elsewhere, or run it with xvrun -no-tables", th.p.pid, lo, hi, v.Start, v.End)
	}
	return nil
}
