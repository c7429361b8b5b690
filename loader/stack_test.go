package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

func words(w ...uint64) []byte {
	b := make([]byte, 0, 8*len(w))
	for _, x := range w {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func TestParseStack(t *testing.T) {
	full := words(2, 0x7000, 0x7005, 0, 0x700a, 0, AtPhdr, 0x400040, AtEntry, 0x401000, AtNull, 0)
	v, err := ParseStack(append(full, "the strings"...))
	if err != nil {
		t.Fatal(err)
	}
	want := StackView{
		Argc: 2, Argv: []uint64{0x7000, 0x7005}, Envp: []uint64{0x700a},
		Aux:    []AuxEntry{{AtPhdr, 0x400040}, {AtEntry, 0x401000}},
		ArgvAt: 8, EnvpAt: 32, AuxAt: 48, Size: uint64(len(full)),
	}
	if fmt.Sprint(*v) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", *v, want)
	}
	if at := v.At(AuxPatch{Index: 1}); at != 72 {
		t.Errorf("value of the second entry is at %d, want 72", at)
	}
	for n := range full {
		if _, err := ParseStack(full[:n]); !errors.Is(err, ErrShort) {
			t.Errorf("with %d of %d bytes the error is %v, want ErrShort", n, len(full), err)
		}
	}
	empty, err := ParseStack(words(0, 0, 0, 0, 0))
	if err != nil || empty.Argc != 0 || empty.Size != 40 {
		t.Errorf("empty stack: %+v, %v", empty, err)
	}
	for _, bad := range [][]byte{
		words(1<<31, 0, 0, 0, 0), words(^uint64(0), 0, 0), words(1, 5, 5, 0, 0, 0),
	} {
		if _, err := ParseStack(bad); err == nil || errors.Is(err, ErrShort) {
			t.Errorf("ParseStack(%x): error %v", bad, err)
		}
	}
	long := words(0, 0, 0)
	for range maxAux + 1 {
		long = append(long, words(AtPhdr, 1)...)
	}
	if _, err := ParseStack(append(long, words(0, 0)...)); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("an auxiliary vector of %d entries: error %v", maxAux+1, err)
	}
}
