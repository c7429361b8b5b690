package tcache

import (
	"sync/atomic"
	"unsafe"

	"xvrun/xv/translate"
)

// link is a direct branch from one fragment to code outside its region. It is bound when its rel32 leads to the
// target's fragment; otherwise it leads to its exit stub.
type link struct {
	from   *region
	to     *region // nil: not bound
	target uint64  // original address
	off    uint32  // of the rel32, in the cache
	stub   uint32  // of the exit stub, in the cache
	call   bool
	away   bool // rcx is in S only, not in its register
	check  bool // taken when a check fails; on no list, see chain

	// A link is on the list of those bound to its target's region, or of those that wait for its target; links of
	// stale fragments are on none.
	list       *linkList
	prev, next *link
}

func (l *link) way() translate.Way {
	if l.call {
		return translate.ByCall
	}
	return translate.ByLink
}

// entryKind is the kind of the entry that the link leads to, if it is a call or rcx is not in its register.
func (l *link) entryKind() pieceKind {
	if l.call {
		return pieceCall
	}
	return pieceJump
}

// linkList is a list of links with removal in constant time: popular targets have thousands of links.
type linkList struct {
	first *link
}

func (ll *linkList) push(l *link) {
	l.list, l.prev, l.next = ll, nil, ll.first
	if ll.first != nil {
		ll.first.prev = l
	}
	ll.first = l
}

func (l *link) remove() {
	if l.list == nil {
		return
	}
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		l.list.first = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	l.list, l.prev, l.next = nil, nil, nil
}

// bind makes the branch lead to dest, a cache offset in region to or in an entry stub of it.
func (s *Space) bind(l *link, to *region, dest uint32) {
	l.remove()
	s.dropWaiting(l.target)
	l.to = to
	to.in.push(l)
	s.patch(l.off, dest)
	s.stats.Links++
}

// wait leaves the branch to its exit stub until its target is translated.
func (s *Space) wait(l *link) {
	ll := s.waiting[l.target]
	if ll == nil {
		ll = new(linkList)
		s.waiting[l.target] = ll
	}
	l.to = nil
	ll.push(l)
}

// unbind resets a bound branch to its exit stub, or to another translation of its target.
func (s *Space) unbind(l *link) {
	s.stats.Unlinks++
	if p, dest, ok := s.destination(l); ok {
		s.bind(l, p.r, dest)
		return
	}
	s.patch(l.off, l.stub)
	l.remove()
	s.wait(l)
}

// forget takes a link of a stale fragment out of the lists. The branch itself stays as it is: no thread comes past
// the int3 in front of it, except one that is already between the two, and its target is either valid or ends in an int3.
func (s *Space) forget(l *link) {
	l.remove()
	if l.to == nil {
		s.dropWaiting(l.target)
	}
	l.to = nil
}

// dropWaiting removes the list of a target for which no link waits any more.
func (s *Space) dropWaiting(target uint64) {
	if ll := s.waiting[target]; ll != nil && ll.first == nil {
		delete(s.waiting, target)
	}
}

// patch makes the rel32 at cache offset off lead to cache offset dest. Threads may execute the branch meanwhile: they
// see the old or the new target, since the rel32 lies in one aligned word.
func (s *Space) patch(off, dest uint32) {
	if s.waking != nil {
		return
	}
	word := (*uint64)(unsafe.Pointer(&s.cfg.Code[off&^7]))
	shift := off & 7 * 8
	v := atomic.LoadUint64(word)
	v = v&^(0xffffffff<<shift) | uint64(dest-(off+4))<<shift
	atomic.StoreUint64(word, v)
}

// fill is a table entry that leads to a region, besides those of its return sites.
type fill struct {
	addr uint64
	off  uint32 // where it leads, in the cache
	call bool
}

// hashSize is how many entries at the start of the tables are those of the hash: there is no code at such addresses.
const hashSize = 1 << 16

// slot is Slot, or nil.
func (cfg *Config) slot(addr uint64, call bool) *uint64 {
	if cfg.Slot == nil || addr < hashSize {
		return nil
	}
	return cfg.Slot(addr, call)
}

// missed is Missed, or false.
func (cfg *Config) missed(addr uint64) bool { return cfg.Missed != nil && cfg.Missed(addr) }

// address is the address in the guest of a cache offset.
func (s *Space) address(off uint32) uint64 { return s.cfg.Base + uint64(off) }

// fill puts an entry into a table. A table can lead an address to one region only: the last one filled. It reports whether there was
// room for what that needs.
func (s *Space) fill(r *region, addr uint64, call bool, off uint32) bool {
	if s.cfg.missed(addr) {
		return true
	}
	slot := s.cfg.slot(addr, call)
	f := fill{addr, off, call}
	if slot == nil || atomic.SwapUint64(slot, s.address(off)) == s.address(off) {
		// In the second case another thread had the same miss, or it was the hash that the branch looked at.
		return s.fillHash(r, addr, call, off)
	}
	r.fills = append(r.fills, f)
	s.note(f)
	s.stats.Fills++
	return true
}

// fillReturns fills the entries of the region's return sites that lead nowhere yet.
func (s *Space) fillReturns(r *region) {
	if s.waking != nil {
		return
	}
	for _, e := range r.returns {
		slot := s.cfg.slot(e.Addr, false)
		if slot == nil {
			s.fillHash(r, e.Addr, false, r.base+e.Off)
		} else if atomic.CompareAndSwapUint64(slot, 0, s.address(r.base+e.Off)) {
			s.note(fill{e.Addr, r.base + e.Off, false})
			s.stats.Fills++
		}
	}
}

// clearFills zeroes the table entries that still lead to r.
func (s *Space) clearFills(r *region) {
	for _, f := range r.fills {
		s.clearFill(f)
	}
	r.fills = nil
	s.clearHashes(r)
	for _, e := range r.returns {
		s.clearFill(fill{e.Addr, r.base + e.Off, false})
	}
}

func (s *Space) clearFill(f fill) {
	if slot := s.cfg.slot(f.addr, f.call); slot != nil {
		atomic.CompareAndSwapUint64(slot, s.address(f.off), 0)
	}
}
