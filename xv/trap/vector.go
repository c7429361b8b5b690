//go:build !plan9

package trap

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Components of the extended state, their numbers in XSTATE_BV (Intel SDM vol. 1, 13.1).
const (
	xX87   = 0
	xSSE   = 1 // xmm0 to xmm15; MXCSR too, but that is always valid
	xAVX   = 2 // upper halves of ymm0 to ymm15
	xMasks = 5 // k0 to k7
	xZMM   = 6 // upper halves of zmm0 to zmm15
	xHigh  = 7 // zmm16 to zmm31
)

// Offsets in the XSAVE area, and in the words of the kernel in it (arch/x86/include/uapi/asm/sigcontext.h).
const (
	xFCW       = 0
	xMXCSR     = 24
	xMXCSRMask = 28
	xST        = 32  // st0 to st7, 16 bytes each
	xXMM       = 160 // xmm0 to xmm15
	xMagic1    = 464
	xFeatures  = 472 // components that the kernel knows
	xHeader    = 512 // XSTATE_BV
	xHeaderEnd = 576
	xLegacy    = 512

	fpMagic1    = 0x46505853
	initialFCW  = 0x37f
	defaultMask = 0xffbf // of MXCSR, if the area has 0 (Intel SDM vol. 1, 11.6.6)
)

// extendedState is the XSAVE area of a thread.
type extendedState struct {
	area    []byte
	offset  func(component uint32) uint32
	changed bool
}

// part is a piece of a register: some bytes of a component.
type part struct {
	component, at, size int // at counts from the component's start, of x87 and SSE from the area's
}

// parts says where the register of some name lies, lowest bytes first.
func parts(name string) ([]part, bool) {
	kind := strings.TrimRight(name, "0123456789")
	n, err := strconv.Atoi(name[len(kind):])
	if err != nil || n < 0 || n > 31 || name != kind+strconv.Itoa(n) {
		return nil, false
	}
	width := map[string]int{"xmm": 16, "ymm": 32, "zmm": 64}[kind]
	switch {
	case kind == "st" && n < 8:
		return []part{{xX87, xST + 16*n, 10}}, true
	case kind == "k" && n < 8:
		return []part{{xMasks, 8 * n, 8}}, true
	case width == 0:
		return nil, false
	case n >= 16:
		return []part{{xHigh, 64 * (n - 16), width}}, true
	}
	all := []part{{xSSE, xXMM + 16*n, 16}, {xAVX, 16 * n, 16}, {xZMM, 32 * n, 32}}
	return all[:map[int]int{16: 1, 32: 2, 64: 3}[width]], true
}

// hasHeader reports whether the area has more than the legacy part.
func (x *extendedState) hasHeader() bool {
	return len(x.area) >= xHeaderEnd && binary.LittleEndian.Uint32(x.area[xMagic1:]) == fpMagic1
}

// bytes are those of a part in the area, nil if the processor or the kernel has none. inUse is false if the component
// is in its initial state, whatever the bytes are.
func (x *extendedState) bytes(p part) (b []byte, inUse bool) {
	start, bv := uint64(0), uint64(1<<xX87|1<<xSSE)
	if x.hasHeader() {
		bv = binary.LittleEndian.Uint64(x.area[xHeader:])
	}
	if p.component > xSSE {
		start = uint64(x.offset(uint32(p.component)))
		if start < xHeaderEnd || !x.hasHeader() || binary.LittleEndian.Uint64(x.area[xFeatures:])>>p.component&1 == 0 {
			return nil, false
		}
	}
	lo := start + uint64(p.at)
	hi := lo + uint64(p.size)
	if hi > uint64(len(x.area)) {
		return nil, false
	}
	return x.area[lo:hi], bv>>p.component&1 != 0
}

// use takes a component out of its initial state, which it keeps until something is written.
func (x *extendedState) use(component int) {
	if !x.hasHeader() {
		return
	}
	bv := binary.LittleEndian.Uint64(x.area[xHeader:])
	if bv>>component&1 != 0 {
		return
	}
	binary.LittleEndian.PutUint64(x.area[xHeader:], bv|1<<component)
	switch component {
	case xX87:
		clear(x.area[:xMXCSR])
		clear(x.area[xST:xXMM])
		binary.LittleEndian.PutUint16(x.area[xFCW:], initialFCW)
	case xSSE:
		clear(x.area[xXMM : xXMM+16*16])
	default:
		size := map[int]int{xAVX: 16 * 16, xMasks: 8 * 8, xZMM: 16 * 32, xHigh: 16 * 64}[component]
		start := int(x.offset(uint32(component)))
		clear(x.area[start:min(start+size, len(x.area))])
	}
}

// extended fetches the extended state.
func (c *Context) extended() (*extendedState, error) {
	if c.done {
		return nil, ErrDone
	}
	if c.vector == nil {
		area, offset, err := c.thread.ExtendedState()
		if err != nil {
			return nil, err
		}
		c.vector = &extendedState{area: area, offset: offset}
	}
	return c.vector, nil
}

// located returns the register's parts, and their bytes in the area.
func (c *Context) located(name string) (x *extendedState, list []part, err error) {
	list, ok := parts(name)
	if !ok {
		return nil, nil, fmt.Errorf("xv: no vector register is called %q", name)
	}
	if x, err = c.extended(); err != nil {
		return nil, nil, err
	}
	for _, p := range list {
		if b, _ := x.bytes(p); b == nil {
			return nil, nil, fmt.Errorf("xv: this processor has no register %s", name)
		}
	}
	return x, list, nil
}

// Vector returns the bytes of a vector, mask or x87 register, lowest first, by its name in lower case: xmm0 to xmm31 (16
// bytes), ymm0 to ymm31 (32), zmm0 to zmm31 (64), k0 to k7 (8), st0 to st7 (10; st0 is the top of the stack). The
// error tells that there is no such register, on this processor or at all.
func (c *Context) Vector(name string) ([]byte, error) {
	x, list, err := c.located(name)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, p := range list {
		b, inUse := x.bytes(p)
		if !inUse {
			b = make([]byte, p.size)
		}
		out = append(out, b...)
	}
	return out, nil
}

// SetVector changes a register to value, which has the register's size. The upper bytes of the register that this one is a
// part of stay as they are. A register st0 to st7 that was empty stays marked so.
func (c *Context) SetVector(name string, value []byte) error {
	x, list, err := c.located(name)
	if err != nil {
		return err
	}
	size := 0
	for _, p := range list {
		size += p.size
	}
	if len(value) != size {
		return fmt.Errorf("xv: register %s has %d bytes, not %d", name, size, len(value))
	}
	for _, p := range list {
		x.use(p.component)
		b, _ := x.bytes(p)
		value = value[copy(b, value):]
	}
	x.changed = true
	return nil
}

// MXCSR returns the control and status word of SSE.
func (c *Context) MXCSR() (uint32, error) {
	x, err := c.extended()
	if err != nil {
		return 0, err
	}
	if len(x.area) < xLegacy {
		return 0, fmt.Errorf("xv: there is no extended state")
	}
	return binary.LittleEndian.Uint32(x.area[xMXCSR:]), nil
}

// SetMXCSR changes it. Bits that the processor does not have are an error.
func (c *Context) SetMXCSR(v uint32) error {
	if _, err := c.MXCSR(); err != nil {
		return err
	}
	x := c.vector
	mask := binary.LittleEndian.Uint32(x.area[xMXCSRMask:])
	if mask == 0 {
		mask = defaultMask
	}
	if v&^mask != 0 {
		return fmt.Errorf("xv: MXCSR %#x has bits that the processor does not know", v)
	}
	x.use(xSSE) // else the area's MXCSR need not be loaded
	binary.LittleEndian.PutUint32(x.area[xMXCSR:], v)
	x.changed = true
	return nil
}
