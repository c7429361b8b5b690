//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/cpu"
)

func TestComponentOffset(t *testing.T) {
	// The upper halves of ymm have a fixed place (Intel SDM vol. 1, 13.4.3).
	want := uint32(576)
	if !cpu.X86.HasOSXSAVE || !cpu.X86.HasAVX {
		want = 0
	}
	if got := componentOffset(2); got != want {
		t.Errorf("AVX state at %d, want %d", got, want)
	}
	if got := componentOffset(61); got != 0 {
		t.Errorf("component 61 at %d: there is none", got)
	}
}

func TestSetPKRU(t *testing.T) {
	const at = 2440
	for _, c := range []struct {
		name     string
		size     int
		features uint64
		offset   uint32
		set      bool
	}{
		{"known", 2696, 0x2e7, at, true},
		{"unknown to the kernel", 2696, 0xe7, at, false},
		{"no offset", 2696, 0x2e7, 0, false},
		{"short", at, 0x2e7, at, false},
	} {
		x := make([]byte, c.size)
		setPKRU(x, c.features, c.offset)
		if set := binary.LittleEndian.Uint64(x[xHeader:]) == xPKRU; set != c.set {
			t.Errorf("%s: set %v, want %v", c.name, set, c.set)
		}
		if c.set && binary.LittleEndian.Uint32(x[at:]) != initialPKRU {
			t.Errorf("%s: rights %x", c.name, x[at:at+4])
		}
	}
}
