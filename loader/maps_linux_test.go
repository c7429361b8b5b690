package loader

import (
	"bytes"
	"os"
	"testing"
)

// TestMapLines formats what the kernel wrote, and expects the same.
func TestMapLines(t *testing.T) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "00010000-00011000 --xs 00001000 103:0f 7                                 /a b (deleted)\n"...)
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		v, ok := ParseMap(line)
		if !ok {
			t.Fatalf("malformed: %q", line)
		}
		if v.String() != string(line) {
			t.Errorf("%q\nbecame %q", line, v.String())
		}
	}
}

func TestContinues(t *testing.T) {
	file := VMA{Start: 0x1000, End: 0x3000, Prot: ProtRead, Offset: 0x5000, Inode: 7, Path: "/f"}
	next := VMA{Start: 0x3000, End: 0x4000, Prot: ProtRead, Offset: 0x7000, Inode: 7, Path: "/f"}
	if !file.Continues(next) {
		t.Error("the next pages of a file")
	}
	for name, change := range map[string]func(v *VMA){
		"gap":        func(v *VMA) { v.Start += 0x1000 },
		"protection": func(v *VMA) { v.Prot |= ProtExec },
		"offset":     func(v *VMA) { v.Offset = 0x5000 },
		"file":       func(v *VMA) { v.Inode++ },
		"shared":     func(v *VMA) { v.Shared = true },
	} {
		v := next
		change(&v)
		if file.Continues(v) {
			t.Errorf("another %s continues the mapping", name)
		}
	}
	if a := (VMA{Start: 0x1000, End: 0x2000}); !a.Continues(VMA{Start: 0x2000, End: 0x3000}) {
		t.Error("anonymous memory")
	}
}
