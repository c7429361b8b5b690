//go:build !plan9

package trap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// fakeThread is a thread with a few bytes of memory at an address.
type fakeThread struct {
	at      uint64
	mem     []byte
	area    []byte
	offsets map[uint32]uint32
	base    [2]uint64
}

func (f *fakeThread) ReadMemory(addr uint64, p []byte) int {
	if addr < f.at || addr > f.at+uint64(len(f.mem)) {
		return 0
	}
	return copy(p, f.mem[addr-f.at:])
}

func (f *fakeThread) WriteMemory(addr uint64, p []byte) error {
	if addr < f.at || addr-f.at+uint64(len(p)) > uint64(len(f.mem)) {
		return &MemoryError{Addr: addr}
	}
	copy(f.mem[addr-f.at:], p)
	return nil
}

func (f *fakeThread) Base(s Segment) (uint64, error)    { return f.base[s], nil }
func (f *fakeThread) SetBase(s Segment, b uint64) error { f.base[s] = b; return nil }
func (f *fakeThread) ExtendedState() ([]byte, func(uint32) uint32, error) {
	return f.area, func(c uint32) uint32 { return f.offsets[c] }, nil
}

// avx512 is the layout of a processor with AVX-512 (Intel SDM vol. 1, 13.5), whatever the tests run on.
func avx512(inUse uint64) *fakeThread {
	const size = 2688
	area := make([]byte, size+4)
	for i := range area {
		area[i] = 0xee // what components that are not in use have
	}
	binary.LittleEndian.PutUint32(area[xMXCSR:], 0x1f80)
	binary.LittleEndian.PutUint32(area[xMXCSRMask:], 0xffff)
	binary.LittleEndian.PutUint32(area[xMagic1:], fpMagic1)
	binary.LittleEndian.PutUint64(area[xFeatures:], 0xe7)
	clear(area[xHeader:xHeaderEnd])
	binary.LittleEndian.PutUint64(area[xHeader:], inUse)
	return &fakeThread{area: area, offsets: map[uint32]uint32{xAVX: 576, xMasks: 1088, xZMM: 1152, xHigh: 1664}}
}

func TestVectorPlaces(t *testing.T) {
	th := avx512(0xe7)
	for name, want := range map[string][]int{ // first byte of each 16
		"xmm0": {160}, "xmm15": {400}, "ymm1": {176, 592}, "zmm2": {192, 608, 1216, 1232}, "zmm15": {400, 816, 1632, 1648},
		"xmm16": {1664}, "ymm17": {1728, 1744}, "zmm31": {2624, 2640, 2656, 2672},
	} {
		for i := range th.area[xXMM:464] {
			th.area[xXMM+i] = byte(i)
		}
		c := New(th, Event{}, Registers{})
		value := make([]byte, 16*len(want))
		for i := range value {
			value[i] = byte(i + 1)
		}
		if err := c.SetVector(name, value); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Vector(name); err != nil || !bytes.Equal(got, value) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		area := c.End()
		for i, at := range want {
			if !bytes.Equal(area[at:at+16], value[16*i:16*i+16]) {
				t.Errorf("%s: bytes from %d are not at %d", name, 16*i, at)
			}
		}
	}
	c := New(th, Event{}, Registers{})
	if err := c.SetVector("k7", []byte{1, 2, 3, 4, 5, 6, 7, 8}); err != nil || !bytes.Equal(th.area[1088+56:1088+64], []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("k7: %v", err)
	}
}

// A component in its initial state reads as zeros, and what is next to a register that is set is zero then.
func TestVectorInitialState(t *testing.T) {
	th := avx512(0)
	c := New(th, Event{}, Registers{})
	for _, name := range []string{"st3", "xmm3", "ymm3", "zmm3", "zmm20", "k1"} {
		if b, err := c.Vector(name); err != nil || slices.Max(b) != 0 {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
	if c.End() != nil {
		t.Error("reading counts as a change")
	}
	c = New(th, Event{}, Registers{})
	one := bytes.Repeat([]byte{1}, 64)
	if err := c.SetVector("zmm20", one); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Vector("zmm21"); err != nil || slices.Max(b) != 0 {
		t.Errorf("zmm21: %x, %v", b, err)
	}
	if err := c.SetVector("st0", one[:10]); err != nil {
		t.Fatal(err)
	}
	if fcw := binary.LittleEndian.Uint16(th.area); fcw != initialFCW {
		t.Errorf("control word %#x", fcw)
	}
	if bv := binary.LittleEndian.Uint64(c.End()[xHeader:]); bv != 1<<xHigh|1<<xX87 {
		t.Errorf("XSTATE_BV %#x", bv)
	}
}

func TestVectorErrors(t *testing.T) {
	th := avx512(0xe7)
	delete(th.offsets, xMasks)
	binary.LittleEndian.PutUint64(th.area[xFeatures:], 0x67) // the kernel does not know zmm16 to zmm31
	c := New(th, Event{}, Registers{})
	for _, name := range []string{"", "xmm", "xmm32", "xmm01", "xmm-1", "k8", "st8", "mm0", "k1", "zmm16"} {
		if _, err := c.Vector(name); err == nil {
			t.Errorf("%q is a register", name)
		}
	}
	if c.SetVector("zmm1", make([]byte, 16)) == nil || c.SetMXCSR(1<<16) == nil {
		t.Error("wrong values are taken")
	}
	th.area = nil
	c = New(th, Event{}, Registers{})
	if _, err := c.Vector("xmm0"); err == nil {
		t.Error("xmm0 without extended state")
	}
	if _, err := c.MXCSR(); err == nil {
		t.Error("MXCSR without extended state")
	}
	c.End()
	if _, err := c.Vector("xmm0"); !errors.Is(err, ErrDone) {
		t.Errorf("after the end: %v", err)
	}
}

func TestLegacyArea(t *testing.T) {
	th := &fakeThread{area: make([]byte, xLegacy)}
	c := New(th, Event{}, Registers{})
	if err := c.SetVector("xmm9", bytes.Repeat([]byte{7}, 16)); err != nil || th.area[xXMM+9*16] != 7 {
		t.Errorf("xmm9: %v", err)
	}
	if _, err := c.Vector("ymm9"); err == nil {
		t.Error("ymm9 in an FXSAVE area")
	}
}

func TestFilter(t *testing.T) {
	c := New(nil, Event{Signal: syscall.SIGSEGV, Addr: 0x2000, Access: Write}, Registers{})
	for _, f := range []struct {
		filter Filter
		want   bool
	}{
		{Filter{}, true},
		{Filter{Signals: []syscall.Signal{syscall.SIGBUS}}, false},
		{Filter{Signals: []syscall.Signal{syscall.SIGBUS, syscall.SIGSEGV}}, true},
		{Filter{Access: Read | Fetch}, false},
		{Filter{Access: Read | Write}, true},
		{Filter{Addresses: []Range{{0, 0x2000}, {0x2001, 0x3000}}}, false},
		{Filter{Addresses: []Range{{0, 1}, {0x2000, 0x2001}}, Access: Write, Signals: []syscall.Signal{syscall.SIGSEGV}}, true},
	} {
		if f.filter.Matches(c) != f.want {
			t.Errorf("%+v: %v", f.filter, !f.want)
		}
	}
}

func TestDisassembly(t *testing.T) {
	for _, c := range []struct {
		code []byte
		want string
	}{
		{[]byte{0x48, 0x8b, 0x03}, "mov (%rbx),%rax"},
		{[]byte{0xc5, 0xf8, 0x77, 0x90, 0x90}, "vzeroupper"},
		{[]byte{0x66, 0x0f, 0x38, 0xf6, 0xc8, 0x90}, ".byte 66 0f 38 f6 c8"}, // adcx %eax,%ecx, which the printer does not know
		{[]byte{0x06}, "?"},
		{[]byte{0x48, 0x8b}, "?"},
	} {
		ctx := New(&fakeThread{at: 0x1000, mem: c.code}, Event{}, Registers{RIP: 0x1000})
		if got := ctx.Disassembly(); got != c.want {
			t.Errorf("% x: %q, want %q", c.code, got, c.want)
		}
	}
}

func TestMemory(t *testing.T) {
	th := &fakeThread{at: 0x1000, mem: []byte("abc\x00\x01\x02\x03\x04")}
	c := New(th, Event{}, Registers{})
	if s, err := c.CString(0x1000, 100); s != "abc" || err != nil {
		t.Errorf("string %q, %v", s, err)
	}
	if s, err := c.CString(0x1001, 1); s != "b" || err != nil {
		t.Errorf("cut string %q, %v", s, err)
	}
	if s, err := c.CString(0x1004, 100); err == nil {
		t.Errorf("string without end %q", s)
	}
	if v, err := c.Uint32(0x1004); v != 0x04030201 || err != nil {
		t.Errorf("%#x, %v", v, err)
	}
	if _, err := c.Uint64(0x1004); !strings.Contains(err.Error(), "0x1008") {
		t.Errorf("%v", err)
	}
	if c.SetUint16(0x1006, 0xbbaa) != nil || th.mem[7] != 0xbb || c.SetUint32(0x1006, 0) == nil {
		t.Error("writes")
	}
}

func TestString(t *testing.T) {
	th := &fakeThread{at: 0x1000, mem: []byte{0x0f, 0x0b}, base: [2]uint64{0xf5, 0x65}}
	c := New(th, Event{Pid: 1, Tid: 2, Signal: syscall.SIGBUS, Code: 2, Addr: 0x30, Access: Read}, Registers{RIP: 0x1000, R15: 0x15, RFLAGS: 0x246})
	want := `process 1 thread 2: SIGBUS (BUS_ADRERR) address 0x30 access read
rip    0000000000001000  ud2
rax    0000000000000000  rcx    0000000000000000  rdx    0000000000000000  rbx    0000000000000000
rsp    0000000000000000  rbp    0000000000000000  rsi    0000000000000000  rdi    0000000000000000
r8     0000000000000000  r9     0000000000000000  r10    0000000000000000  r11    0000000000000000
r12    0000000000000000  r13    0000000000000000  r14    0000000000000000  r15    0000000000000015
rflags 0000000000000246 [PF ZF]
fsbase 00000000000000f5  gsbase 0000000000000065
`
	if got := c.String(); got != want {
		t.Errorf("got\n%s", got)
	}
}
