//go:build linux && amd64

package virt

import (
	"sync/atomic"
	"time"

	"xvrun/xv/tcache"
)

// counters are the parts of Stats that the handlers count.
type counters struct {
	linkMisses, jumpMisses, callMisses           atomic.Uint64
	handoffs, traps, systemCalls                 atomic.Uint64
	translation                                  atomic.Int64 // nanoseconds
	processes, threads                           atomic.Int64
	regions, instructions, bytes, kept, restored atomic.Uint64 // of caches that are gone
	collections                                  atomic.Uint64
}

// Stats returns what was counted so far.
func (s *Session) Stats() Stats {
	c := &s.counters
	st := Stats{
		Regions: c.regions.Load(), Instructions: c.instructions.Load(), CacheBytes: c.bytes.Load(), Collections: c.collections.Load(), Kept: c.kept.Load(), Restored: c.restored.Load(),
		LinkMisses: c.linkMisses.Load(), JumpMisses: c.jumpMisses.Load(), CallMisses: c.callMisses.Load(),
		Handoffs: c.handoffs.Load(), Traps: c.traps.Load(), SystemCalls: c.systemCalls.Load(),
		TranslationTime: time.Duration(c.translation.Load()),
		Processes:       int(c.processes.Load()), Threads: int(c.threads.Load()),
	}
	s.eachCode(func(c *codeSpace) { st.add(c.space.Stats()) })
	return st
}

// add counts a cache in.
func (st *Stats) add(t tcache.Stats) {
	st.Regions += uint64(t.Regions)
	st.Instructions += t.Instrs
	st.Restored += t.RestoredInstrs
	st.CacheBytes += t.CodeBytes
	st.Kept += uint64(t.Kept)
}

// retire counts a cache that is about to go.
func (c *counters) retire(t tcache.Stats) {
	c.regions.Add(uint64(t.Regions))
	c.instructions.Add(t.Instrs)
	c.restored.Add(t.RestoredInstrs)
	c.bytes.Add(t.CodeBytes)
	c.kept.Add(uint64(t.Kept))
}
