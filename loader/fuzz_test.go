package loader

import (
	"bytes"
	"testing"
)

// FuzzELF feeds header parsing with hostile files.
func FuzzELF(f *testing.F) {
	f.Add(makeELF(2, "/lib/ld.so\x00", text(0x400000), nil))
	f.Add(makeELF(3, "", text(0), nil))
	f.Add([]byte("#! /bin/sh -x\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if img, err := parseELF("a", bytes.NewReader(file), int64(len(file))); err == nil {
			if img.low >= img.high || img.high > userEnd+pageSize || img.low%pageSize != 0 || img.high%pageSize != 0 {
				t.Errorf("accepted an extent of %#x-%#x", img.low, img.high)
			}
			_ = fitsNear("a", img)
		}
		var head [headSize]byte
		copy(head[:], file)
		if interp, _, ok := parseScript(&head); ok && interp == "" {
			t.Error("a #! line without a name was accepted")
		}
	})
}

// FuzzStack feeds stack parsing with hostile memory.
func FuzzStack(f *testing.F) {
	f.Add(words(1, 5, 0, 5, 0, AtPhdr, 1, 0, 0))
	f.Fuzz(func(t *testing.T, mem []byte) {
		v, err := ParseStack(mem)
		if err == nil && (v.Size > uint64(len(mem)) || v.Argc != len(v.Argv)) {
			t.Errorf("view %+v of %d bytes", v, len(mem))
		}
	})
}

// FuzzPlan feeds planning with hostile maps and auxiliary vectors. Whatever
// plan comes out must not let one mapping replace another.
func FuzzPlan(f *testing.F) {
	f.Add([]byte("400000-401000 r-xp 0 8:1 7 /bin/a\n7f0000000000-7f0000001000 r-xp 0 0:0 0 [vdso]\n"+
		"7ffd00000000-7ffd00021000 rw-p 0 0:0 0 [stack]\n"), words(AtPhdr, 0x400040, AtSysinfoEhdr, 0x7f0000000000, 0, 0))
	f.Add([]byte("555555554000-555555556000 r-xp 0 8:1 7 /bin/a\n555555556000-555555557000 rw-p 0 0:0 0 \n"+
		"7ffff7dd3000-7ffff7dfc000 r-xp 0 8:1 8 /lib/ld\n7ffd00000000-7ffd00021000 rw-p 0 0:0 0 [stack]\n"),
		words(AtPhdr, 0x555555554040, AtBase, 0x7ffff7dd3000, AtEntry, 0x555555554050, 0, 0))
	f.Fuzz(func(t *testing.T, text, auxv []byte) {
		maps, err := ParseMaps(text)
		if err != nil {
			return
		}
		aux, err := ParseAuxv(auxv)
		if err != nil {
			return
		}
		l, err := Plan(maps, aux, bump(0x1000_0000))
		if err == nil {
			checkLayout(t, l, maps)
		}
	})
}
