//go:build !plan9

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Tags of the auxiliary vector that hold addresses of mappings (getauxval(3),
// System V ABI for x86-64, section 3.4.3).
const (
	AtNull        = 0
	AtPhdr        = 3
	AtBase        = 7
	AtEntry       = 9
	AtSysinfoEhdr = 33
)

// auxSize is the size of one entry of the auxiliary vector.
const auxSize = 16

// maxAux bounds the auxiliary vector; the kernel's has about 25 entries
// (AT_VECTOR_SIZE).
const maxAux = 256

// An AuxEntry is one entry of the auxiliary vector.
type AuxEntry struct{ Tag, Value uint64 }

// ParseAuxv parses an auxiliary vector up to its AT_NULL, which is not part of
// the outcome. Without an AT_NULL the error is io.ErrUnexpectedEOF.
func ParseAuxv(mem []byte) ([]AuxEntry, error) {
	var aux []AuxEntry
	for ; len(mem) >= auxSize; mem = mem[auxSize:] {
		e := AuxEntry{binary.LittleEndian.Uint64(mem), binary.LittleEndian.Uint64(mem[8:])}
		if e.Tag == AtNull {
			return aux, nil
		}
		if len(aux) == maxAux {
			return nil, fmt.Errorf("loader: auxiliary vector has more than %d entries", maxAux)
		}
		aux = append(aux, e)
	}
	return nil, fmt.Errorf("loader: auxiliary vector has no end: %w", io.ErrUnexpectedEOF)
}

// A StackView locates the parts of the initial stack (System V ABI for x86-64,
// figure 3.9). Offsets count from the initial stack pointer.
type StackView struct {
	Argc   int
	Argv   []uint64 // addresses of the arguments
	Envp   []uint64 // addresses of the environment strings
	Aux    []AuxEntry
	ArgvAt uint64 // offset of argv[0]
	EnvpAt uint64 // offset of envp[0]
	AuxAt  uint64 // offset of the first auxiliary entry
	Size   uint64 // offset of the byte after AT_NULL
}

// ErrShort reports that the view needs more of the stack than was given.
var ErrShort = errors.New("loader: initial stack continues past the memory read")

// ParseStack parses the initial stack of a process from the memory at its
// stack pointer. If mem ends too early the error is ErrShort: read more, up to
// the end of the stack, and try again.
func ParseStack(mem []byte) (*StackView, error) {
	words := uint64(len(mem)) / 8
	word := func(i uint64) uint64 { return binary.LittleEndian.Uint64(mem[8*i:]) }
	if words == 0 {
		return nil, ErrShort
	}
	argc := word(0)
	if argc > 1<<31-1 { // MAX_ARG_STRINGS
		return nil, fmt.Errorf("loader: argument count is %#x", argc)
	}
	if argc+2 > words {
		return nil, ErrShort
	}
	v := &StackView{Argc: int(argc), ArgvAt: 8, EnvpAt: 8 * (argc + 2)}
	for i := uint64(1); i <= argc; i++ {
		v.Argv = append(v.Argv, word(i))
	}
	if word(argc+1) != 0 {
		return nil, fmt.Errorf("loader: argument pointers do not end after %d", argc)
	}
	i := argc + 2
	for ; ; i++ {
		if i >= words {
			return nil, ErrShort
		}
		if word(i) == 0 {
			break
		}
		v.Envp = append(v.Envp, word(i))
	}
	v.AuxAt = 8 * (i + 1)
	aux, err := ParseAuxv(mem[v.AuxAt:])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, ErrShort
	}
	if err != nil {
		return nil, err
	}
	v.Aux = aux
	v.Size = v.AuxAt + auxSize*uint64(len(aux)+1)
	return v, nil
}

// At returns the offset of the value of a patched entry from the initial stack
// pointer.
func (v *StackView) At(p AuxPatch) uint64 { return v.AuxAt + auxSize*uint64(p.Index) + 8 }

// AuxSize is the size of the auxiliary vector with its AT_NULL, in bytes.
func (v *StackView) AuxSize() int { return auxSize * (len(v.Aux) + 1) }
