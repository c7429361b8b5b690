package tcache

import (
	"bytes"
	"errors"
	"math/rand"
	"sync"
	"testing"

	"xvrun/xv/translate"
)

// code is a small guest at 0x200000.
func code(at map[int][]byte) *image {
	im := &image{lo: 0x200000, text: bytes.Repeat([]byte{0x90}, 4*pageSize)}
	for off, b := range at {
		copy(im.text[off:], b)
	}
	return im.withTables()
}

// callRet is f (at 0): call g (at 0x100); ret, and g: ret.
func callRet() *image {
	return code(map[int][]byte{0: {0xe8, 0xfb, 0, 0, 0, 0xc3}, 0x100: {0xc3}})
}

func TestTakeLink(t *testing.T) {
	im := callRet()
	s := New(testConfig(im, 1<<20))
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	r := s.regionAt(t, im.lo)
	if len(r.links) != 1 || !r.links[0].call || r.links[0].to != nil {
		t.Fatalf("links: %+v", r.links)
	}
	if ra := im.j[5]; ra == 0 {
		t.Error("the return site is not in table J")
	}
	stub := r.links[0].stub
	for range 2 {
		resume, target, call, err := s.TakeLink(im, stub)
		if err != nil || target != im.lo+0x100 || !call {
			t.Fatalf("%#x %v %v", target, call, err)
		}
		s.verifyPlace(t, resume, target, false, true)
		if s.dest(r.links[0].off) != resume {
			t.Error("not bound")
		}
	}
	s.verify(t, im, true)
	for _, bad := range []uint32{0, stub + 1, stub - 1, ^uint32(0), uint32(len(s.cfg.Code))} {
		if _, _, _, err := s.TakeLink(im, bad); err != ErrStub {
			t.Errorf("TakeLink(%#x): %v", bad, err)
		}
		s.Recover(bad)
		s.IsStale(bad)
	}
}

func TestStaleStub(t *testing.T) {
	im := callRet()
	s := New(testConfig(im, 1<<20))
	if _, err := s.Jump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	l := &s.regionAt(t, im.lo).links[0]
	stub := l.stub
	if n := s.Invalidate(im.lo, im.lo+1); n != 1 || !s.IsStale(stub) {
		t.Fatalf("dropped %d", n)
	}
	resume, target, _, err := s.TakeLink(im, stub)
	if err != nil || target != im.lo+0x100 {
		t.Fatalf("%#x %v", target, err)
	}
	s.verifyPlace(t, resume, target, false, true)
	if s.dest(l.off) != l.stub {
		t.Error("the link of a stale fragment was bound")
	}
	s.verify(t, im, true)
}

func TestInvalidate(t *testing.T) {
	im := callRet()
	var told []uint64
	cfg := testConfig(im, 1<<20)
	cfg.Budget = 1000
	cfg.Translated = func(page uint64) { told = append(told, page) }
	s := New(cfg)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FillCall(im, im.lo+0x100); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FillJump(im, im.lo+0x100); err != nil {
		t.Fatal(err)
	}
	s.verify(t, im, true)
	if st := s.Stats(); st.Ahead != 1 || st.Links != 1 || st.Live != 2 || st.Stubs != 0 {
		t.Errorf("%+v", st)
	}
	if len(told) != 1 || told[0] != im.lo {
		t.Errorf("told of pages %#x", told)
	}
	if !s.HasCode(im.lo+0x100, im.lo+0x101) || s.HasCode(im.lo+0x101, im.lo+0x2000) || s.HasCode(0, im.lo) || !s.HasCode(0, ^uint64(0)) {
		t.Error("HasCode")
	}
	p, _ := s.block(im.lo + 0x100)
	g := p.body
	then := false
	if n := s.InvalidateThen(im.lo+0x100, im.lo+0x200, func() { then = true }); n != 1 || !then {
		t.Errorf("dropped %d, then %v", n, then)
	}
	if im.j[0x100]|im.c[0x100] != 0 || im.c[0] == 0 {
		t.Error("tables")
	}
	if rec, ok := s.Recover(g); !ok || rec.RIP != im.lo+0x100 || s.cfg.Code[g] != int3 || !s.IsStale(g) {
		t.Errorf("%+v %v", rec, ok)
	}
	s.verify(t, im, true)

	// New code: the same address is translated from what memory holds now.
	copy(im.text[0x100:], []byte{0x31, 0xc0, 0xc3})
	if _, err := s.FillCall(im, im.lo+0x100); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); len(told) != 2 || st.Links != 2 || st.Unlinks != 1 {
		t.Errorf("told %d, %+v", len(told), st)
	}
	if p, _ := s.block(im.lo + 0x100); !bytes.Equal(s.cfg.Code[p.body:p.body+2], []byte{0x31, 0xc0}) {
		t.Error("old code")
	}
	s.verify(t, im, true)
	im.dead.Store(true)
	s.Invalidate(0, ^uint64(0))
	var de *translate.DecodeError
	if _, err := s.Jump(im, im.lo); !errors.As(err, &de) {
		t.Error(err)
	}
	if st := s.Stats(); st.Live != 0 || len(s.pages)+len(s.waiting)+s.copies != 0 {
		t.Errorf("%+v", st)
	}
}

// An address in the middle of a block, and the middle of an instruction.
func TestMiddle(t *testing.T) {
	im := code(map[int][]byte{0: {0xb8, 0xc3, 0x90, 0x90, 0xc3, 0x31, 0xc9, 0xc3}, 0x40: {0xeb, 0xc3}})
	s := New(testConfig(im, 1<<20))
	if _, err := s.Jump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Jump(im, im.lo+1); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Live != 2 {
		t.Errorf("in the middle of an instruction: %+v", st)
	}
	for _, addr := range []uint64{im.lo, im.lo + 1, im.lo + 4, im.lo + 5, im.lo + 7} {
		body, err := s.FillJump(im, addr)
		if err != nil {
			t.Fatal(err)
		}
		s.verifyPlace(t, body, addr, false, false)
		direct, err := s.FillCall(im, addr)
		if err != nil {
			t.Fatal(err)
		}
		s.verifyPlace(t, direct, addr, false, true)
	}
	s.verify(t, im, true)
	// Every instruction of entry stubs is known.
	for _, p := range s.mem.pieces {
		if p.kind == pieceFragment {
			continue
		}
		n := 0
		for a := p.off; a < p.end; a++ {
			if _, ok := s.Recover(a); ok {
				n++
			}
		}
		if want := map[pieceKind]int{pieceJump: 2, pieceCall: 3}[p.kind]; n != want {
			t.Errorf("stub of kind %d: %d instructions", p.kind, n)
		}
	}
}

func TestFull(t *testing.T) {
	im := libc(t)
	cfg := testConfig(im, 256<<10)
	cfg.Budget = 2000
	s := New(cfg)
	var err error
	n := 0
	fill := func() {
		for ; err == nil; n++ {
			_, err = s.FillCall(im, im.funcs[n*7%len(im.funcs)])
		}
		if err != ErrFull {
			t.Fatal(err)
		}
		s.verify(t, im, false)
		err = nil
	}
	fill()
	// Full is not stale.
	if st := s.Stats(); st.Live != st.Regions || st.Used < len(cfg.Code)*9/10 {
		t.Errorf("%+v", st)
	}
	s.Unfill()
	for i := range im.j {
		if im.j[i]|im.c[i] != 0 {
			t.Fatal("Unfill leaves entries")
		}
	}
	s.Empty(s.cfg.Layout)
	if st := s.Stats(); st.Live != 0 || st.Used != 0 {
		t.Errorf("%+v", st)
	}
	fill()

	// When all is stale there is still no room.
	s.Flush()
	s.verify(t, im, false)
	if st := s.Stats(); st.Live != 0 || st.Used < len(cfg.Code)*9/10 {
		t.Errorf("%+v", st)
	}
	fill()
	s.Empty(s.cfg.Layout)
	fill()
}

func TestClone(t *testing.T) {
	im := libc(t)
	cfg := testConfig(im, 1<<20)
	cfg.Budget = 4000
	s := New(cfg)
	for i := 0; i < 300; i++ {
		if _, err := s.FillCall(im, im.funcs[i*5%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	s.Invalidate(im.funcs[100], im.funcs[100]+20000)
	child := im.withTables()
	c := s.Clone(testConfig(child, 1<<20))
	if !bytes.Equal(s.cfg.Code, c.cfg.Code) {
		t.Error("code differs")
	}
	for i := range im.j {
		if im.j[i] != child.j[i] || im.c[i] != child.c[i] {
			t.Fatalf("tables differ at %#x", im.lo+uint64(i))
		}
	}
	s.verify(t, im, false)
	c.verify(t, child, false)
	if a, b := s.Stats(), c.Stats(); a != b {
		t.Errorf("%+v, clone %+v", a, b)
	}
	// Each goes on alone.
	c.Invalidate(0, 1<<40)
	c.verify(t, child, false)
	s.verify(t, im, false)
	for i := 0; i < 300; i++ {
		if _, err := c.FillJump(child, im.funcs[i*3%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	c.verify(t, child, false)
	s.verify(t, im, false)
}

// Small parts of a real program, with everything checked that Recover says.
func TestPlaces(t *testing.T) {
	im := libc(t)
	cfg := testConfig(im, 1<<20)
	cfg.Budget = 1000
	s := New(cfg)
	for i := 0; i < 20; i++ {
		f := im.funcs[i*37%len(im.funcs)]
		if _, err := s.FillCall(im, f); err != nil {
			t.Fatal(err)
		}
		if _, err := s.FillJump(im, f); err != nil {
			t.Fatal(err)
		}
	}
	s.verify(t, im, true)
	s.Invalidate(im.funcs[37*3%len(im.funcs)], im.funcs[37*3%len(im.funcs)]+3*pageSize)
	s.verify(t, im, true)
}

func TestConcurrent(t *testing.T) {
	im := libc(t)
	cfg := testConfig(im, 4<<20)
	cfg.Budget = 1000
	s := New(cfg)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(g)))
			for i := 0; i < 300; i++ {
				f := im.funcs[rnd.Intn(len(im.funcs))]
				var err error
				switch rnd.Intn(16) {
				case 0:
					s.Invalidate(f, f+1)
					if i%100 == 0 {
						s.Flush()
						s.Clone(testConfig(im.withTables(), 4<<20))
					}
				case 1:
					s.Recover(uint32(rnd.Intn(1 << 20)))
				case 2:
					s.HasCode(f, f+1000)
					s.IsStale(uint32(rnd.Intn(1 << 20)))
					s.Stats()
				case 3, 4, 5, 6:
					if stub, ok := s.someStub(rnd.Intn(1000)); ok {
						_, _, _, err = s.TakeLink(im, stub)
					}
				case 7, 8:
					_, err = s.Jump(im, f+uint64(rnd.Intn(20)))
				case 9, 10:
					_, err = s.FillJump(im, f)
				default:
					_, err = s.FillCall(im, f)
				}
				var de *translate.DecodeError
				if err != nil && !errors.As(err, &de) && err != ErrStub {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.verify(t, im, false)
}

// someStub returns an exit stub.
func (s *Space) someStub(n int) (uint32, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ll := range s.waiting {
		if n--; n < 0 && ll.first != nil {
			return ll.first.stub, true
		}
	}
	return 0, false
}

// Wrong or missing memory, and addresses at the ends of the address space.
func TestHostile(t *testing.T) {
	im := callRet()
	im.slot(0, false)
	s := New(Config{Code: make([]byte, 1<<20), Base: testBase, Layout: testLayout})
	for _, addr := range []uint64{0, 1, im.lo - 1, im.lo + 4*pageSize, 1<<63 - 1, 1 << 63, ^uint64(0), ^uint64(0) - pageSize} {
		var de *translate.DecodeError
		if _, err := s.FillJump(im, addr); !errors.As(err, &de) {
			t.Errorf("%#x: %v", addr, err)
		}
		s.Invalidate(addr, addr+1)
		s.Invalidate(addr, ^uint64(0))
		s.Invalidate(^uint64(0), addr)
		s.HasCode(0, addr)
	}
	// Without tables, and at the very end of executable memory.
	if _, err := s.FillJump(im, im.lo+4*pageSize-1); err != nil {
		t.Error(err)
	}
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Fills != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSpecial(t *testing.T) {
	im := code(map[int][]byte{0: {0x0f, 0x05, 0xcd, 0x80, 0xc3}}) // syscall ; int 0x80 ; ret
	s := New(testConfig(im, 1<<20))
	if _, err := s.FillJump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	if im.j[2] == 0 {
		t.Error("the return site of the system call is not in table J")
	}
	body, err := s.Jump(im, im.lo+2)
	if err != nil {
		t.Fatal(err)
	}
	// It comes after a reload of rcx.
	var at []uint32
	for off := range uint32(20) {
		if addr, ok := s.SpecialAt(body + off); ok && addr == im.lo+2 {
			at = append(at, off)
		}
	}
	if len(at) != 1 || at[0] == 0 {
		t.Errorf("special instructions at %d", at)
	}
	s.verify(t, im, true)
}

// Entry stubs fill the cache too.
func TestStubsFull(t *testing.T) {
	im := code(nil)
	s := New(testConfig(im, 32<<10))
	for i := 0; ; i = (i + 1) % pageSize {
		direct, err := s.FillCall(im, im.lo+uint64(i))
		if err == ErrFull {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec, ok := s.Recover(direct); !ok || rec.RIP != im.lo+uint64(i) || rec.RSPAdd != 8 {
			t.Fatalf("%+v %v", rec, ok)
		}
	}
	s.verify(t, im, true)
}

// Fragments too large for the cache.
func TestTooSmall(t *testing.T) {
	s := New(Config{Code: make([]byte, 2*pageSize), Base: testBase, Layout: testLayout})
	for range 2 {
		if _, err := s.Jump(calls{}, 5<<20); err != ErrSize {
			t.Error(err)
		}
	}
	if _, err := s.Jump(rets{}, 1<<21); err != nil {
		t.Error(err)
	}
}

// nops is memory that is full of nops, up to the last byte of the address space.
type nops struct{}

func (nops) ReadCode(addr uint64, p []byte) int {
	for i := range p {
		p[i] = 0x90
	}
	return len(p)
}

func TestLastPage(t *testing.T) {
	s := New(Config{Code: make([]byte, 1<<20), Base: testBase, Layout: testLayout, Budget: 10000})
	for _, back := range []uint64{1, pageSize, pageSize + 1, 2 * pageSize, 3*pageSize + 5} {
		_, err := s.Jump(nops{}, -back)
		if back <= pageSize && err == nil || back > pageSize && err != nil {
			t.Errorf("%#x: %v", -back, err)
		}
	}
	if s.Invalidate(1, ^uint64(0)) == 0 || s.Stats().Live != 0 {
		t.Errorf("%+v", s.Stats())
	}
}

// More pages than there are copies of.
func TestManyPages(t *testing.T) {
	s := New(Config{Code: make([]byte, 8<<20), Base: testBase, Layout: testLayout})
	rets := rets{}
	for i := range uint64(2*maxCopies + 10) {
		if _, err := s.Jump(rets, 1<<20+i*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if s.copies > maxCopies {
		t.Errorf("%d copies", s.copies)
	}
	if n := s.Invalidate(0, 1<<40); n != 2*maxCopies+10 {
		t.Errorf("dropped %d", n)
	}
}

// calls is memory that is full of calls to 4 KiB later, at every fifth byte.
type calls struct{}

func (calls) ReadCode(addr uint64, p []byte) int {
	for i := range p {
		p[i] = []byte{0xe8, 0, 0x10, 0, 0}[(addr+uint64(i))%5]
	}
	return len(p)
}

// rets is memory that is full of ret instructions.
type rets struct{}

func (rets) ReadCode(addr uint64, p []byte) int {
	for i := range p {
		p[i] = 0xc3
	}
	return len(p)
}

func BenchmarkTranslate(b *testing.B) {
	im := libc(b)
	var st Stats
	memory := make([]byte, 16<<20)
	for b.Loop() {
		b.StopTimer()
		clear(im.j)
		clear(im.c)
		cfg := testConfig(im, 0)
		cfg.Code = memory
		s := New(cfg)
		b.StartTimer()
		for _, f := range im.funcs {
			if _, err := s.FillCall(im, f); err != nil {
				b.Fatal(err)
			}
		}
		st = s.Stats()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(st.Instrs), "ns/instr")
	b.ReportMetric(float64(st.CodeBytes)/float64(st.SourceBytes), "out/in")
	b.ReportMetric(float64(st.Instrs), "instrs")
	b.ReportMetric(float64(st.Regions), "regions")
}

// BenchmarkFlush is what it costs that all goes stale.
func BenchmarkFlush(b *testing.B) {
	im := libc(b)
	for b.Loop() {
		b.StopTimer()
		s := New(testConfig(im.withTables(), 16<<20))
		for _, f := range im.funcs {
			if _, err := s.FillCall(im, f); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		s.Flush()
	}
}
