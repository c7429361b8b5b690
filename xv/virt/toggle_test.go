//go:build linux && amd64

package virt

import (
	"testing"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

func TestToggleProtection(t *testing.T) {
	tg := &toggle{mem: make([]byte, abi.ToggleSize)}
	for prot := unix.PROT_READ; prot < 8; prot++ {
		tg.set(prot)
		if got := tg.get(); got != prot {
			t.Errorf("protection %d became %d", prot, got)
		}
	}
	// While the agent stores, and after a guest has: what the checks of translations refuse is not executable.
	tg.set(unix.PROT_READ | unix.PROT_EXEC)
	for i := range 16 {
		tg.mem[abi.ToggleProt+i] = 0x7f
		if got := tg.get(); got&unix.PROT_EXEC != 0 || got > 7 {
			t.Errorf("protection %#x with byte %d of another one", got, i)
		}
		tg.mem[abi.ToggleProt+i] = 0xff
		if got := tg.get(); got&unix.PROT_EXEC == 0 || got > 7 {
			t.Errorf("protection %#x with all bits in byte %d", got, i)
		}
	}
}

func TestToggleStop(t *testing.T) {
	for state, want := range map[uint32]uint32{
		abi.ToggleIdle: abi.ToggleFree, abi.ToggleBusy | 7: abi.ToggleBroken, 12345: abi.ToggleBroken, abi.ToggleFree: abi.ToggleBroken,
	} {
		tg := &toggle{mem: make([]byte, abi.ToggleSize)}
		word32(tg.mem, abi.ToggleState).Store(state)
		tg.stop()
		if got := word32(tg.mem, abi.ToggleState).Load(); got != want {
			t.Errorf("state %#x became %#x, want %#x", state, got, want)
		}
	}
}

func TestTogglePool(t *testing.T) {
	var p togglePool
	seen := map[int]bool{}
	for {
		i, ok := p.get()
		if !ok {
			break
		}
		if seen[i] || abi.Toggles+(i+1)*abi.ToggleSize > abi.TogglesEnd {
			t.Fatalf("place %d", i)
		}
		seen[i] = true
	}
	p.put(5)
	if i, ok := p.get(); !ok || i != 5 || len(seen) < 1000 {
		t.Errorf("%d %v of %d", i, ok, len(seen))
	}
}
