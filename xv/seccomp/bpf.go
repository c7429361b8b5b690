package seccomp

import "encoding/binary"

// Instruction codes are sums of a class, a size or operation, and a mode or source (linux/bpf_common.h).
const (
	ld, ldx, st, stx, alu, jmp, ret, misc = 0, 1, 2, 3, 4, 5, 6, 7 // class

	imm, abs, mem, length = 0x00, 0x20, 0x60, 0x80 // mode of a load

	add, sub, mul, div, or, and, lsh, rsh, neg, xor = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xa0

	ja, jeq, jgt, jge, jset = 0x00, 0x10, 0x20, 0x30, 0x40

	x, a = 0x08, 0x10 // source: register X (else K); register A, of ret

	tax, txa = 0x00, 0x80
)

// memWords is the number of words of scratch memory.
const memWords = 16

// check reports whether the kernel would take a program.
func check(prog []Inst) error {
	if len(prog) == 0 || len(prog) > MaxLen {
		return ErrInvalid
	}
	for pc, in := range prog {
		if !in.valid(len(prog) - pc - 1) {
			return ErrInvalid
		}
	}
	if last := prog[len(prog)-1].Code; last != ret && last != ret|a || !initialized(prog) {
		return ErrInvalid
	}
	return nil
}

// valid reports whether an instruction is one that filters may use, with an operand in range. after is the number of
// instructions that follow.
func (in Inst) valid(after int) bool {
	switch in.Code {
	case ld | abs:
		return in.K < dataSize && in.K%4 == 0
	case ld | imm, ldx | imm, ld | length, ldx | length, misc | tax, misc | txa, ret, ret | a,
		alu | add, alu | add | x, alu | sub, alu | sub | x, alu | mul, alu | mul | x, alu | div | x, alu | and, alu | and | x,
		alu | or, alu | or | x, alu | xor, alu | xor | x, alu | lsh | x, alu | rsh | x, alu | neg:
		return true
	case alu | div:
		return in.K != 0
	case alu | lsh, alu | rsh:
		return in.K < 32
	case ld | mem, ldx | mem, st, stx:
		return in.K < memWords
	case jmp | ja:
		return uint64(in.K) < uint64(after)
	case jmp | jeq, jmp | jeq | x, jmp | jgt, jmp | jgt | x, jmp | jge, jmp | jge | x, jmp | jset, jmp | jset | x:
		return int(in.JT) < after && int(in.JF) < after
	}
	return false
}

// initialized reports whether every word of scratch memory is written before it is read, on all ways there.
func initialized(prog []Inst) bool {
	const all = 1<<memWords - 1
	written := make([]uint32, len(prog)) // before each instruction, on all jumps to it
	for i := range written {
		written[i] = all
	}
	now := uint32(0)
	for pc, in := range prog {
		now &= written[pc]
		switch in.Code {
		case st, stx:
			now |= 1 << in.K
		case ld | mem, ldx | mem:
			if now>>in.K&1 == 0 {
				return false
			}
		case jmp | ja:
			written[pc+1+int(in.K)] &= now
			now = all
		default:
			if in.Code&7 == jmp {
				written[pc+1+int(in.JT)] &= now
				written[pc+1+int(in.JF)] &= now
				now = all
			}
		}
	}
	return true
}

// run runs a program that was checked.
func run(prog []Inst, data *[dataSize]byte) uint32 {
	var A, X uint32
	var M [memWords]uint32
	for pc := 0; ; pc++ {
		in := prog[pc]
		v := in.K
		if in.Code&x != 0 {
			v = X
		}
		taken := false
		switch in.Code &^ x {
		case ld | abs:
			A = binary.LittleEndian.Uint32(data[in.K:])
		case ld | imm:
			A = in.K
		case ldx | imm:
			X = in.K
		case ld | length:
			A = dataSize
		case ldx | length:
			X = dataSize
		case ld | mem:
			A = M[in.K]
		case ldx | mem:
			X = M[in.K]
		case st:
			M[in.K] = A
		case stx:
			M[in.K] = X
		case alu | add:
			A += v
		case alu | sub:
			A -= v
		case alu | mul:
			A *= v
		case alu | div:
			if v == 0 {
				return 0
			}
			A /= v
		case alu | and:
			A &= v
		case alu | or:
			A |= v
		case alu | xor:
			A ^= v
		case alu | lsh:
			A <<= v & 31
		case alu | rsh:
			A >>= v & 31
		case alu | neg:
			A = -A
		case misc | tax:
			X = A
		case misc | txa:
			A = X
		case ret:
			return in.K
		case ret | a:
			return A
		case jmp | ja:
			pc += int(in.K)
			continue
		case jmp | jeq:
			taken = A == v
		case jmp | jgt:
			taken = A > v
		case jmp | jge:
			taken = A >= v
		case jmp | jset:
			taken = A&v != 0
		}
		if in.Code&7 == jmp {
			if taken {
				pc += int(in.JT)
			} else {
				pc += int(in.JF)
			}
		}
	}
}
