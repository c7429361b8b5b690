package tcache

import (
	"encoding/binary"
	"errors"
	"testing"

	"xvrun/xv/translate"
)

// volatileSpace is a space of which all code is volatile while on is set.
func volatileSpace(im *image, size int) (s *Space, on *bool) {
	on = new(bool)
	*on = true
	cfg := testConfig(im, size)
	cfg.Volatile = func(uint64) bool { return *on }
	return New(cfg), on
}

// leave takes the exit stub of the check of the region at orig, and returns where it leads.
func (s *Space) leave(t *testing.T, im *image, orig uint64) *region {
	t.Helper()
	head := s.regionAt(t, orig)
	all := head.versions
	resume, target, call, err := s.TakeLink(im, all[len(all)-1].checkLink().stub)
	if err != nil || target != orig || call {
		t.Fatalf("%#x %#x %v %v", resume, target, call, err)
	}
	r := s.find(resume).r
	if resume != r.base+r.bodies[0] {
		t.Errorf("resumes at %#x, not at a check", resume)
	}
	s.verify(t, im, false)
	return r
}

func TestVersions(t *testing.T) {
	im := code(map[int][]byte{0: {0x31, 0xc0, 0xc3}})
	s, _ := volatileSpace(im, 1<<20)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	head := s.regionAt(t, im.lo)
	if !head.reg.Checked || s.copies != 0 || im.c[0] == 0 {
		t.Fatalf("%+v", head)
	}
	if addr, ok := s.CheckAt(head.checkLink().stub); !ok || addr != im.lo {
		t.Errorf("CheckAt: %#x %v", addr, ok)
	}
	if got := s.leave(t, im, im.lo); got != head || s.Stats().Regions != 1 {
		t.Error("a new version of the same code")
	}
	for i := range maxVersions {
		im.text[1] = 0xc1 + byte(i) // xor with another register
		for range 2 {
			if got := s.leave(t, im, im.lo); got == head || got.head != head || len(head.versions) != i+2 {
				t.Fatalf("version %d: %+v, %d in all", i, got, len(head.versions))
			}
		}
	}
	im.text[1] = 0xc0
	if s.leave(t, im, im.lo) != head {
		t.Error("not the first version again")
	}
	entry := im.c[0]
	im.text[1] = 0xd0
	r := s.leave(t, im, im.lo)
	if r == head || r.head != r || !head.stale || len(r.versions) != 1 || im.c[0] == 0 || im.c[0] == entry {
		t.Errorf("too many versions: %+v", r)
	}
	if n := s.Invalidate(im.lo, im.lo+1); n != 1 || im.c[0] != 0 || s.Stats().Live != 0 {
		t.Errorf("%d dropped, %+v", n, s.Stats())
	}
}

func TestLoose(t *testing.T) {
	im := code(map[int][]byte{0: {0xb8, 1, 0, 0, 0, 0xc3}})
	s, _ := volatileSpace(im, 1<<20)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	im.text[1] = 2
	r := s.leave(t, im, im.lo)
	if len(r.reg.Loose) != 1 || len(r.versions) != 1 || im.c[0] == 0 {
		t.Fatalf("%+v", r)
	}
	im.text[3] = 9
	if s.leave(t, im, im.lo) != r {
		t.Error("another version for another operand")
	}
	im.text[0] = 0xb9
	if s.leave(t, im, im.lo) == r {
		t.Error("the same version for another instruction")
	}
}

func TestSuspend(t *testing.T) {
	im := code(map[int][]byte{0: {0x31, 0xc0, 0xc3}, pageSize - 1: {0x31, 0xc0, 0xc3}})
	s, on := volatileSpace(im, 1<<20)
	edge := im.lo + pageSize - 1
	for _, orig := range []uint64{im.lo, edge} {
		if _, err := s.FillCall(im, orig); err != nil {
			t.Fatal(err)
		}
	}
	suspended := func(orig uint64, i int) bool {
		words := s.regionAt(t, orig).reg.Words
		return (i == 0 || words[i] != words[0]) && binary.LittleEndian.Uint64(s.cfg.Code[words[i]:])>>63 == 0
	}
	check := func(want bool) {
		t.Helper()
		if got := suspended(im.lo, 0); got != want || suspended(im.lo, 1) {
			t.Errorf("suspended: %v, want %v", got, want)
		}
	}
	s.Suspend(im.lo, im.lo+pageSize)
	if check(true); s.Stats().Live != 2 || !suspended(edge, 0) || suspended(edge, 1) {
		t.Errorf("%+v", s.Stats())
	}
	s.Resume(im.lo, im.lo+pageSize)
	s.Suspend(im.lo+pageSize, im.lo+2*pageSize)
	if check(false); s.Stats().Live != 2 || suspended(edge, 0) || !suspended(edge, 1) {
		t.Errorf("a region that goes on in a suspended page: %+v", s.Stats())
	}
	s.Resume(im.lo+pageSize, im.lo+2*pageSize)
	s.Invalidate(edge+1, edge+2)
	// Without Resume the first execution finds out.
	s.Suspend(im.lo, im.lo+pageSize)
	im.dead.Store(true)
	var de *translate.DecodeError
	if _, _, _, err := s.TakeLink(im, s.regionAt(t, im.lo).checkLink().stub); !errors.As(err, &de) {
		t.Error(err)
	}
	im.dead.Store(false)
	s.leave(t, im, im.lo)
	check(false)
	// Code that is not checked becomes stale.
	*on = false
	if _, err := s.FillCall(im, im.lo+2*pageSize); err != nil {
		t.Fatal(err)
	}
	s.Suspend(im.lo, im.lo+4*pageSize)
	if check(true); s.Stats().Live != 1 {
		t.Errorf("%+v", s.Stats())
	}
	s.InvalidateChecked()
	if st := s.Stats(); st.Live != 0 {
		t.Errorf("%+v", st)
	}
}

// TestWord checks code by words that somebody else keeps: of its own page, of the next one, of both.
func TestWord(t *testing.T) {
	const own, next = 1<<32 - 0x200_0000, 1<<32 - 0x200_0010 // before the cache
	for _, c := range []struct {
		name        string
		first, last uint32 // words of the two pages
		edge        [2]uint32
	}{
		{"both", own, next, [2]uint32{own, next}},
		{"one", own, own, [2]uint32{own, own}},
		{"the first", own, 0, [2]uint32{own, 1}},
		{"the second", 0, next, [2]uint32{1, next}},
	} {
		im := code(map[int][]byte{pageSize - 1: {0x31, 0xc0, 0xc3}})
		cfg := testConfig(im, 1<<20)
		cfg.Volatile = func(uint64) bool { return true }
		cfg.Word = func(page uint64) uint32 {
			if page == im.lo {
				return c.first
			}
			return c.last
		}
		s := New(cfg)
		if _, err := s.Jump(im, im.lo+pageSize-1); err != nil {
			t.Fatal(err)
		}
		s.Suspend(im.lo, im.lo+2*pageSize)
		got := s.regionAt(t, im.lo+pageSize-1).reg.Words
		for i, want := range c.edge {
			if want == 1 { // one of the cache
				if int(got[i]) >= len(s.cfg.Code) || binary.LittleEndian.Uint64(s.cfg.Code[got[i]:]) != 0 {
					t.Errorf("%s: word %d is at %#x", c.name, i, got[i])
				}
			} else if got[i] != want {
				t.Errorf("%s: words %#x", c.name, got)
			}
		}
	}
}

// TestVolatileBorder translates code up to a volatile page, and code that settled.
func TestVolatileBorder(t *testing.T) {
	im := code(nil)
	cfg := testConfig(im, 1<<20)
	volatile := im.lo + pageSize
	cfg.Volatile = func(page uint64) bool { return page == volatile }
	s := New(cfg)
	if _, err := s.Jump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	if r := s.regionAt(t, im.lo); r.reg.Checked || r.code.overlaps(volatile, volatile+1) {
		t.Errorf("%+v", r.code.spans)
	}
	if _, err := s.Jump(im, volatile-1); err != nil {
		t.Fatal(err)
	}
	head := s.regionAt(t, volatile-1)
	if !head.reg.Checked {
		t.Error("not checked")
	}
	stub := head.checkLink().stub
	volatile = 0
	s.Invalidate(im.lo, im.lo+2*pageSize)
	if _, _, _, err := s.TakeLink(im, stub); err != nil || s.regionAt(t, im.lo+pageSize-1).reg.Checked {
		t.Errorf("%v, or checked without need", err)
	}
}

// Versions that come and go fill the cache, which is emptied then.
func TestCheckedFull(t *testing.T) {
	im := code(map[int][]byte{0: {0x31, 0xc0, 0xc3}})
	s, _ := volatileSpace(im, 4*pageSize)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	for i, full := 0, 0; full < 3; i++ {
		if s.Stats().Used > 3*pageSize {
			s.Empty(s.cfg.Layout)
			full++
			if _, err := s.FillCall(im, im.lo); err != nil {
				t.Fatal(err)
			}
		}
		im.text[0] = byte(0x31 + i%3)
		im.text[1] = byte(0xc0 + i%50)
		if r := s.leave(t, im, im.lo); r.stale || r.head.stale || s.Stats().Live > maxVersions+1 {
			t.Fatalf("%+v", s.Stats())
		}
	}
}

// hashTables are the tables of the hash, by address, those for calls from hashSize on.
type hashTables map[uint64]*uint64

// slot is a Config.Slot: no other address has a table.
func (low hashTables) slot(addr uint64, call bool) *uint64 {
	if addr >= hashSize {
		return nil
	}
	if call {
		addr += hashSize
	}
	if low[addr] == nil {
		low[addr] = new(uint64)
	}
	return low[addr]
}

func TestHash(t *testing.T) {
	// call *rax ; ret
	im := code(map[int][]byte{0: {0xff, 0xd0, 0xc3}})
	low := hashTables{}
	cfg := testConfig(im, 1<<20)
	cfg.Slot = low.slot
	s := New(cfg)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	head := func(addr uint64, call bool) (list []*piece) {
		entry := *cfg.Slot(addr%hashSize, call)
		if entry == 0 {
			return nil
		}
		for at := s.offset(entry); ; {
			p := s.find(at)
			if p == nil || p.kind != pieceHashJump && p.kind != pieceHashCall {
				t.Fatalf("%#x is no stub of the hash", at)
			}
			list = append(list, p)
			at = s.dest(p.off + translate.HashEntryNext)
			if at == p.off+translate.HashEntryEnd {
				break
			}
		}
		return list
	}
	if l := head(im.lo, true); len(l) != 1 || l[0].orig != im.lo {
		t.Fatalf("%v", l)
	}
	if l := head(im.lo+2, false); len(l) != 1 {
		t.Errorf("the return site is not reachable: %v", l)
	}
	// The same low bits.
	far := &image{lo: im.lo + hashSize, text: im.text}
	if _, err := s.FillCall(far, far.lo); err != nil {
		t.Fatal(err)
	}
	if l := head(im.lo, true); len(l) != 2 || l[0].orig != far.lo || l[1].orig != im.lo {
		t.Errorf("%v", l)
	}
	c := s.Clone(Config{Code: make([]byte, len(cfg.Code)), Base: cfg.Base, Layout: cfg.Layout, Slot: cfg.Slot})
	if len(c.buckets) != len(s.buckets) {
		t.Error("the clone has other buckets")
	}
	r := s.regionAt(t, im.lo)
	s.Hash(im.lo)
	if !r.stale || len(head(im.lo, true)) != 1 || len(head(im.lo+2, false)) != 1 {
		t.Error("the region of a branch that uses the hash now")
	}
	if _, err := s.FillJump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	if r := s.regionAt(t, im.lo); len(r.reg.Hashed) != 1 {
		t.Errorf("%+v", r.reg)
	}
	s.Flush()
	for addr, slot := range low {
		if *slot != 0 {
			t.Errorf("entry of %#x: %#x", addr, *slot)
		}
	}
}
