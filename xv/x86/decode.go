package x86

// Decode decodes the instruction at the start of code, which may go on after the instruction. On an error in.Len is the
// number of bytes that were examined; of ErrInvalid that is the length the instruction would have, where its form tells.
func Decode(code []byte, in *Inst) error {
	*in = Inst{}
	short := ErrTruncated
	if len(code) >= MaxLen {
		code, short = code[:MaxLen], ErrTooLong
	}

	// SDM vol. 2 sec. 2.1.1, 2.2.1: prefixes in any order and number; REX counts only directly before the opcode.
	i := 0
	var rex, last byte
	for ; i < len(code); i++ {
		b := code[i]
		e := oneByte[b]
		if e&prefix == 0 {
			break
		}
		if b&0xf0 == 0x40 {
			rex = b
			continue
		}
		rex = 0
		switch b {
		case 0x66:
			in.OpSize = true
		case 0x67:
			in.AddrSize = true
		case 0xf0:
			in.Lock = true
		case 0xf2:
			in.Repne, last = true, 3
		case 0xf3:
			in.Rep, last = true, 2
		case 0x64, 0x65:
			in.Seg = b
		case 0x26, 0x2e, 0x36, 0x3e:
			// ES, CS, SS and DS overrides are ignored and leave an FS or GS override in effect (APM vol. 3 sec. 1.2.4).
		}
	}
	if i == len(code) {
		in.Len = uint8(i)
		return short
	}
	in.REX, in.Ext, in.PrefixLen = rex, rex&15, uint8(i)
	in.PP = last
	if last == 0 && in.OpSize {
		in.PP = 1
	}

	// SDM vol. 2 sec. 2.1.2: escape bytes, or the VEX, EVEX or XOP prefix, choose the opcode map.
	op := code[i]
	var e entry
	switch {
	case op == 0x0f:
		var m *[256]entry
		i++
		if i == len(code) {
			return in.fail(i, short)
		}
		op = code[i]
		in.Map, m = 1, &map0F
		if op == 0x38 || op == 0x3a {
			in.Map, m = 2, &map0F38
			if op == 0x3a {
				in.Map, m = 3, &map0F3A
			}
			i++
			if i == len(code) {
				return in.fail(i, short)
			}
			op = code[i]
		}
		e = m[op]
	case op == 0xc4, op == 0xc5, op == 0x62, op == 0x8f:
		var err error
		if e, i, err = in.vector(code, i); err != nil {
			if err == ErrTruncated {
				err = short
			}
			return in.fail(i, err)
		}
		op = code[i]
	default:
		e = oneByte[op]
	}
	in.Opcode, in.OpOff = op, uint8(i)
	i++
	if e&valid == 0 {
		return in.fail(i, ErrInvalid)
	}

	// SDM vol. 2 sec. 2.1.3 to 2.1.5: ModRM, SIB and displacement.
	if e&modrm != 0 {
		if i == len(code) {
			return in.fail(i, short)
		}
		b := code[i]
		in.HasModRM, in.ModRM, in.ModRMOff = true, b, uint8(i)
		i++
		if b < 0xc0 && e&regAlways == 0 {
			if b&7 == 4 {
				if i == len(code) {
					return in.fail(i, short)
				}
				in.HasSIB, in.SIB = true, code[i]
				i++
			}
			switch {
			case b >= 0x80:
				in.DispSize = 4
			case b >= 0x40:
				in.DispSize = 1
			case b&7 == 5:
				in.DispSize, in.RIPRel = 4, true
			case b&7 == 4 && in.SIB&7 == 5:
				in.DispSize = 4
			}
			if n := int(in.DispSize); n != 0 {
				if i+n > len(code) {
					return in.fail(len(code), short)
				}
				in.DispOff = uint8(i)
				in.Disp = int64(int8(code[i]))
				if n == 4 {
					in.Disp = int64(int32(le32(code[i:])))
				}
				i += n
			}
		}
	}

	if e&(immMask|ruleMask) != 0 {
		if n := in.immSize(e); n != 0 {
			if i+n > len(code) {
				return in.fail(len(code), short)
			}
			in.immediate(e, code[i:i+n], i)
			i += n
		}
	}
	in.Len = uint8(i)
	in.Class = Class(e >> classShift & 15)
	if e&unchecked == memAny|regAny && in.Encoding == Legacy && !in.Lock && !in.OpSize {
		return nil
	}
	return in.check(e)
}

// fail ends the decoding with an error after n bytes.
func (in *Inst) fail(n int, err error) error {
	in.Len = uint8(n)
	return err
}

// vector reads the VEX, EVEX or XOP bytes at code[i:] and returns the table entry and the offset of the opcode; or the entry
// of the one-byte opcode 8f, pop.
func (in *Inst) vector(code []byte, i int) (entry, int, error) {
	start := code[i]
	if i+1 >= len(code) {
		return 0, len(code), ErrTruncated
	}
	b1 := code[i+1]
	// APM vol. 3 sec. 1.9: 8f is XOP when the map field, bits 0-4 of the next byte, is 8 or more; else it is pop.
	if start == 0x8f && b1&0x1f < 8 {
		return oneByte[0x8f], i, nil
	}
	if start == 0xc5 {
		// SDM vol. 2 sec. 2.3.5: c5, R' vvvv' L pp.
		if i+2 >= len(code) {
			return 0, len(code), ErrTruncated
		}
		in.Encoding, in.Map = VEX2, 1
		in.Ext = ^b1 >> 5 & 4
		in.VVVV, in.VL, in.PP = ^b1>>3&15, b1>>2&1, b1&3
		return vectorEntry(&vex0F, code[i+2]), i + 2, nil
	}
	if i+2 >= len(code) {
		return 0, len(code), ErrTruncated
	}
	b2 := code[i+2]
	in.Ext = ^b1>>5&7 | b2>>4&8
	in.VVVV = ^b2 >> 3 & 15
	if start == 0x62 {
		// SDM vol. 2 sec. 2.7.1: 62, R' X' B' R2' 0 mmm, W vvvv' 1 pp, z L'L b V' aaa. The fixed bits are #UD otherwise.
		if i+4 >= len(code) {
			return 0, len(code), ErrTruncated
		}
		b3 := code[i+3]
		in.Encoding, in.Map = EVEX, b1&7
		in.VVVV |= ^b3 << 1 & 16
		in.VL, in.PP = b3>>5&3, b2&3
		var m *[256]entry
		if b1&8 == 0 && b2&4 != 0 {
			m = evexMaps[b1&7]
		}
		return vectorEntry(m, code[i+4]), i + 4, nil
	}
	if i+3 >= len(code) {
		return 0, len(code), ErrTruncated
	}
	// SDM vol. 2 sec. 2.3.5, APM vol. 3 sec. 1.9: c4 or 8f, R' X' B' mmmmm, W vvvv' L pp.
	in.Encoding, in.Map = VEX3, b1&0x1f
	in.VL, in.PP = b2>>2&1, b2&3
	var m *[256]entry
	switch {
	case start == 0x8f:
		in.Encoding = XOP
		if in.Map <= 10 {
			m = xopMaps[in.Map-8]
		}
	case in.Map < 8:
		m = vexMaps[in.Map]
	}
	return vectorEntry(m, code[i+3]), i + 3, nil
}

func vectorEntry(m *[256]entry, op byte) entry {
	if m == nil {
		return 0
	}
	return m[op]
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
