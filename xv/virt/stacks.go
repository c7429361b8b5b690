//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"slices"

	"xvrun/loader"
	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// With native returns the stacks of threads are full of addresses of the cache. A move rewrites them, so that returns need no trap: every
// aligned word between a stack pointer (that of the thread, or one that a handler on another stack has interrupted) and the end of its mapping that is the address of a return site. Such a word may be a number
// that only looks like one, since of a thread that is anywhere nothing tells the frames of its functions apart. It would have to have
// the value of one of some ten thousand return sites, at one of the random places of the region.

// stackLimit bounds what is searched of a stack, in bytes. Returns from further up trap.
const stackLimit = 16 << 20

// rewriteReturns rewrites the return addresses on the stacks of the halted threads: to the new place of the return site, or to the
// original address if the translation is left behind.
func (m *mover) rewriteReturns() {
	if !m.as.code.native || m.move.From == m.move.To && !m.leaves() {
		return
	}
	for _, h := range m.all {
		lowest := map[int]uint64{} // stack pointer by the index of its mapping
		for _, sp := range append(slices.Clip(h.th.beneath), m.guestStack(h)) {
			i := slices.IndexFunc(m.maps, func(v loader.VMA) bool { return v.Contains(sp) })
			if low, ok := lowest[i]; i >= 0 && (!ok || sp < low) {
				lowest[i] = sp
			}
		}
		for i, sp := range lowest {
			sp = (sp + 7) &^ 7
			mem := make([]byte, min(m.maps[i].End-sp, stackLimit))
			m.rewriteStack(h.th, sp, mem[:h.th.read(sp, mem)])
		}
	}
}

// rewriteStack rewrites the words of mem, a copy of what is at an address. What cannot be written is left to traps.
func (m *mover) rewriteStack(th *thread, at uint64, mem []byte) {
	for ; len(mem) >= 8; at, mem = at+8, mem[8:] {
		word := binary.LittleEndian.Uint64(mem)
		if !m.move.From.InCache(word) {
			continue
		}
		orig, ok := m.as.code.space.ReturnsTo(uint32(word - m.move.From.Cache()))
		if !ok {
			continue
		}
		to := orig
		if !m.leaves() {
			to = word - m.move.From.Base + m.move.To.Base
		} else if site, ok := m.code.space.ReturnSite(orig); ok && m.code.native { // of a region that is kept
			to = m.move.To.Cache() + uint64(site)
		}
		th.poke(at, le64(to))
	}
}

// guestStack is the guest's stack pointer in a halted thread.
func (m *mover) guestStack(h *halted) uint64 {
	th := h.th
	passed, _ := agent.InCall(h.regs.Rip - m.move.To.Agent())
	switch {
	case th.waits.Load() && th.ctx.u32(abi.Kind) == abi.KindSignal:
		f, err := th.frame()
		if err != nil {
			return 0
		}
		return f.reg(frRSP)
	case th.waits.Load():
		return th.ctx.registers().gpr[rsp]
	case passed:
		return th.resuming.gpr[rsp]
	}
	return h.regs.Rsp
}

// leaves reports whether the translations are left behind.
func (m *mover) leaves() bool {
	return m.keep != KeepAll || m.transparent || m.hashed || m.move.To.CacheSize != m.move.From.CacheSize
}

// choose lets chooser choose among places where no return address leads to that the guest may still have. If there is none, calls leave
// original return addresses from now on: then no return goes to a place without a look at the tables.
func (m *mover) choose(chooser chooser, from abi.Home) (to abi.Home, err error) {
	code, maps := m.as.code, m.as.besideLookups(m.maps, m.as.code.form)
	if code.native && !remembersMuch(m.as.former) {
		to, err = chooser(withFormer(maps, m.as.former), from)
		over := func(f formerPlace) bool { return f.lo < to.End() && f.hi > to.Base }
		if err == nil && (m.transparent || m.keep == KeepAll && to == from || !over(code.place()) && !slices.ContainsFunc(m.as.former, over)) {
			return to, nil
		}
	}
	if to, err = chooser(maps, from); err == nil && code.native {
		m.transparent = true
	}
	return to, err
}

// withFormer adds former places to mappings in ascending order.
func withFormer(maps []loader.VMA, former []formerPlace) []loader.VMA {
	if len(former) == 0 {
		return maps
	}
	maps = slices.Clone(maps)
	for _, f := range former {
		i, _ := slices.BinarySearchFunc(maps, f.lo, compareStart)
		maps = slices.Insert(maps, i, loader.VMA{Start: f.lo &^ (pageSize - 1), End: (f.hi + pageSize - 1) &^ (pageSize - 1)})
	}
	return maps
}

func compareStart(v loader.VMA, at uint64) int {
	switch {
	case v.Start < at:
		return -1
	case v.Start > at:
		return 1
	}
	return 0
}
