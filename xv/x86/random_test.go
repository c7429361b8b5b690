package x86

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"xvrun/tests/need"
)

// randomCode fills n slots of 32 bytes: random bytes behind a start that leads into one of the opcode maps, then nops, so that
// objdump is in step again at the next slot.
func randomCode(r *rand.Rand, n int) []byte {
	starts := [][]byte{
		{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}, {0xc5}, {0xc4, 0xe1}, {0xc4, 0xe2}, {0xc4, 0xe3}, {0x62, 0xf1}, {0x62, 0xf2},
		{0x62, 0xf3}, {0x62, 0xf5}, {0x62, 0xf6}, {0x8f, 0xe8}, {0x8f, 0xe9}, {0x8f, 0xea}, {0xff}, {0xf7}, {0x0f, 0xae},
	}
	prefixes := []byte{0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x48, 0x41, 0x4f, 0x65, 0x64, 0x2e, 0x3e}
	code := make([]byte, 0, 32*n)
	for range n {
		slot := bytes.Repeat([]byte{0x90}, 32)
		b := slot[:0]
		for r.IntN(3) == 0 && len(b) < 4 {
			b = append(b, prefixes[r.IntN(len(prefixes))])
		}
		b = append(b, starts[r.IntN(len(starts))]...)
		for len(b) < 15 {
			b = append(b, byte(r.Uint32()))
		}
		code = append(code, slot...)
	}
	return code
}

// TestRandom compares with objdump over random bytes.
func TestRandom(t *testing.T) {
	need.Tool(t, "objdump")
	slots := 100_000
	if *full {
		slots = 1_000_000
	}
	file := filepath.Join(t.TempDir(), "random")
	if err := os.WriteFile(file, randomCode(rand.New(rand.NewPCG(1, 2)), slots), 0o600); err != nil {
		t.Fatal(err)
	}
	total := newTally()
	if err := total.run(file, 0, "-D", "-z", "-b", "binary", "-m", "i386:x86-64"); err != nil {
		t.Fatal(err)
	}
	total.report(t)
}
