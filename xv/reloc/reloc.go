//go:build !plan9

// Package reloc says what becomes of addresses when the virtualization state of an address space moves to another home: where
// there is a place for it, and what words of a thread's context, registers and memory change. It only computes; package
// virt stops the threads and does it.
package reloc

import (
	"encoding/binary"
	"math/rand/v2"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

// Move is a move from one home to another.
type Move struct{ From, To abi.Home }

// Addr returns where what is at an address of the agent or the contexts is after the move; other addresses stay. A thread at a known point
// has none of the cache or the tables of the hash.
func (m Move) Addr(a uint64) uint64 {
	if a >= m.From.Base && a < m.From.Hash() {
		return a - m.From.Base + m.To.Base
	}
	return a
}

// Left reports whether an address lies in the region that is left.
func (m Move) Left(a uint64) bool { return a >= m.From.Base && a < m.From.End() }

// Context rewrites the words of a thread context that are addresses of xv's region. ctx is the start of the slot, which nobody
// else may change meanwhile.
func (m Move) Context(ctx []byte) {
	for _, off := range []int{abi.Self, abi.AgentSP, abi.SigStack, abi.Frame, abi.Child} {
		put(ctx, off, m.Addr(word(ctx, off)))
	}
	for arg := range 6 {
		off := abi.Call + 8 + 8*arg
		put(ctx, off, m.Addr(word(ctx, off)))
	}
	clear(ctx[abi.Vector : abi.Vector+abi.MaxVector*abi.CallSize]) // done
	binary.LittleEndian.PutUint32(ctx[abi.Stub:], 0)
	put(ctx, abi.RIP, 0)
}

func word(b []byte, off int) uint64   { return binary.LittleEndian.Uint64(b[off:]) }
func put(b []byte, off int, v uint64) { binary.LittleEndian.PutUint64(b[off:], v) }

// Words calls f with the offset of each aligned word of mem that is an address in the region that is left.
func (m Move) Words(mem []byte, f func(off int)) {
	for off := 0; off+8 <= len(mem); off += 8 {
		if m.Left(word(mem, off)) {
			f(off)
		}
	}
}

// Zone is a part of the address space in which a region is placed.
type Zone struct{ Lo, Hi uint64 }

// Low and Far are where homes are, unless a place is given. Far is the lowest part of where code that may exist has no
// lookup tables, up to where position-independent programs begin: the kernel places nothing there on its own, except
// for programs without a limit of the stack that have more than 20 TiB of memory.
var (
	Low = Zone{abi.NearFirst, abi.LowEnd}
	Far = Zone{abi.Table + abi.EntrySize*abi.FarEnd, 0x5500_0000_0000}
)

// Choose returns a home like from in free memory of a zone, each possible place with the same probability; ok is false if there is none.
// used are the mappings of the process in ascending order.
func Choose(used []loader.VMA, from abi.Home, z Zone) (home abi.Home, ok bool) {
	gaps := z.gapsFor(from.End()-from.Base, used)
	total := uint64(0)
	for _, g := range gaps {
		total += g.places
	}
	if total == 0 {
		return from, false
	}
	n := rand.Uint64N(total)
	for _, g := range gaps {
		if n < g.places {
			from.Base = g.lo + n*abi.PageSize
			break
		}
		n -= g.places
	}
	return from, true
}

// Away returns a home like from in free memory of a zone that has nothing of [lo, hi) and is as far from that as possible. The cache is smaller
// where there is no room for that of from, but has at least abi.MinCache bytes. ok is false if there is no place. used are the
// mappings of the process in ascending order.
func Away(used []loader.VMA, from abi.Home, z Zone, lo, hi uint64) (home abi.Home, ok bool) {
	for home = from; ; home.CacheSize = max(home.CacheSize/2&^(abi.PageSize-1), abi.MinCache) {
		size := home.End() - home.Base
		farthest := uint64(0)
		for _, g := range z.gapsFor(size, used) {
			if g.lo+size <= lo && (!ok || lo-(g.lo+size) >= farthest) {
				home.Base, farthest, ok = g.lo, lo-(g.lo+size), true
			}
			if last := g.last(); last >= hi && (!ok || last-hi >= farthest) {
				home.Base, farthest, ok = last, last-hi, true
			}
		}
		if ok || home.CacheSize <= abi.MinCache {
			return home, ok
		}
	}
}

// gapsFor lists the free memory of a zone in which size bytes of a region have room.
func (z Zone) gapsFor(size uint64, used []loader.VMA) (gaps []gap) {
	at := z.Lo
	add := func(end uint64) {
		end = min(end, z.Hi)
		if end > at && end-at >= size {
			gaps = append(gaps, gap{at, (end-at-size)/abi.PageSize + 1})
		}
	}
	for _, v := range used {
		add(v.Start)
		at = max(at, v.End)
	}
	add(z.Hi)
	return gaps
}

// gap is free memory in which a region has room at a number of places: at lo, and each page from there on.
type gap struct{ lo, places uint64 }

// last is the last of the places.
func (g gap) last() uint64 { return g.lo + (g.places-1)*abi.PageSize }
