package seccomp

import "testing"

func in(code uint16, k uint32) Inst                   { return Inst{Code: code, K: k} }
func branch(code uint16, k uint32, jt, jf uint8) Inst { return Inst{code, jt, jf, k} }

func TestRun(t *testing.T) {
	d := Data{Nr: 39, Arch: ArchX86_64, IP: 0x1122334455667788, Args: [6]uint64{7, 1 << 40, 0, 0, 0, 0xdeadbeef00000001}}
	for _, c := range []struct {
		name string
		prog []Inst
		want uint32
	}{
		{"constant", []Inst{in(ret, 5)}, 5},
		{"number", []Inst{in(ld|abs, 0), in(ret|a, 0)}, 39},
		{"arch", []Inst{in(ld|abs, 4), in(ret|a, 0)}, ArchX86_64},
		{"address, low", []Inst{in(ld|abs, 8), in(ret|a, 0)}, 0x55667788},
		{"address, high", []Inst{in(ld|abs, 12), in(ret|a, 0)}, 0x11223344},
		{"argument, high", []Inst{in(ld|abs, 28), in(ret|a, 0)}, 1 << 8},
		{"last word", []Inst{in(ld|abs, 60), in(ret|a, 0)}, 0xdeadbeef},
		{"length", []Inst{in(ldx|length, 0), in(misc|txa, 0), in(ret|a, 0)}, 64},
		{"length in A", []Inst{in(ld|length, 0), in(ret|a, 0)}, 64},
		{"arithmetic", []Inst{in(ld|imm, 10), in(ldx|imm, 3), in(alu|mul|x, 0), in(alu|sub, 2), in(alu|div|x, 0), in(alu|lsh, 4),
			in(alu|or, 1), in(alu|xor|x, 0), in(alu|rsh|x, 0), in(alu|add, 1), in(alu|and, 0xff), in(ret|a, 0)}, (((10*3-2)/3<<4|1)^3)>>3 + 1},
		{"negation", []Inst{in(ld|imm, 1), in(alu|neg, 0), in(ret|a, 0)}, 0xffffffff},
		{"division by zero", []Inst{in(ld|imm, 1), in(ldx|imm, 0), in(alu|div|x, 0), in(ret, 9)}, 0},
		{"large shift", []Inst{in(ld|imm, 1), in(ldx|imm, 33), in(alu|lsh|x, 0), in(ret|a, 0)}, 2},
		{"memory", []Inst{in(ld|imm, 4), in(st, 15), in(misc|tax, 0), in(stx, 0), in(ld|mem, 15), in(ldx|mem, 0), in(alu|add|x, 0), in(ret|a, 0)}, 8},
		{"jump", []Inst{in(jmp|ja, 1), in(ret, 1), in(ret, 2)}, 2},
		{"equal", []Inst{in(ld|abs, 0), branch(jmp|jeq, 39, 1, 0), in(ret, 1), in(ret, 2)}, 2},
		{"not equal", []Inst{in(ld|abs, 0), branch(jmp|jeq, 40, 1, 0), in(ret, 1), in(ret, 2)}, 1},
		{"greater", []Inst{in(ld|abs, 0), branch(jmp|jgt, 38, 1, 0), in(ret, 1), in(ret, 2)}, 2},
		{"not greater", []Inst{in(ld|abs, 0), branch(jmp|jgt, 39, 1, 0), in(ret, 1), in(ret, 2)}, 1},
		{"at least", []Inst{in(ldx|imm, 39), in(ld|abs, 0), branch(jmp|jge|x, 0, 1, 0), in(ret, 1), in(ret, 2)}, 2},
		{"bits", []Inst{in(ld|abs, 0), branch(jmp|jset, 6, 0, 1), in(ret, 1), in(ret, 2)}, 1},
		{"no bits", []Inst{in(ld|abs, 0), branch(jmp|jset, 24, 0, 1), in(ret, 1), in(ret, 2)}, 2},
	} {
		if err := check(c.prog); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := uint32((&Filter{Prog: c.prog}).run(&d)); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// run is the result of one program, whatever it is.
func (f *Filter) run(d *Data) Result {
	b := d.bytes()
	return Result(run(f.Prog, &b))
}

func TestInvalid(t *testing.T) {
	end := in(ret, 0)
	for name, prog := range map[string][]Inst{
		"empty":                  {},
		"too long":               make([]Inst, MaxLen+1),
		"no return":              {in(ld|imm, 0)},
		"unaligned load":         {in(ld|abs, 2), end},
		"load behind the data":   {in(ld|abs, 64), end},
		"halfword":               {in(ld|abs|0x08, 0), end},
		"indirect load":          {in(ld|0x40, 0), end},
		"remainder":              {in(alu|0x90, 3), end},
		"division by zero":       {in(alu|div, 0), end},
		"shift":                  {in(alu|lsh, 32), end},
		"memory":                 {in(st, 16), end},
		"jump behind the end":    {in(jmp|ja, 1), end},
		"jump far behind":        {in(jmp|ja, 0xffffffff), end},
		"branch behind the end":  {branch(jmp|jeq, 0, 0, 1), end},
		"unwritten memory":       {in(ld|mem, 3), end},
		"unwritten on one way":   {branch(jmp|jeq, 0, 0, 1), in(st, 3), in(ld|mem, 3), end},
		"unknown":                {in(0xffff, 0), end},
		"return of X":            {in(ret|x, 0)},
		"ends with a branch":     {end, branch(jmp|jeq, 0, 0, 0)},
		"store with a mode":      {in(st|abs, 0), end},
		"a return and then more": {end, in(ld|imm, 0)},
	} {
		if _, err := New(prog, nil); err != ErrInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Written on all ways.
	if _, err := New([]Inst{branch(jmp|jeq, 0, 0, 2), in(st, 3), in(jmp|ja, 1), in(st, 3), in(ld|mem, 3), end}, nil); err != nil {
		t.Error(err)
	}
	var top *Filter
	var err error
	for n := 0; err == nil; n++ {
		prog := make([]Inst, MaxLen)
		prog[MaxLen-1] = end
		if top, err = New(prog, top); err == ErrTooLong && n != 7 || n > 7 {
			t.Errorf("%d programs: %v", n, err)
		}
	}
}

func TestOrder(t *testing.T) {
	result := func(values ...Result) Result {
		var top *Filter
		for _, v := range values {
			var err error
			if top, err = New([]Inst{in(ret, uint32(v))}, top); err != nil {
				t.Fatal(err)
			}
		}
		return top.Run(&Data{})
	}
	for _, c := range []struct{ got, want Result }{
		{result(), Allow},
		{result(Allow | 3), Allow},
		{result(Errno|1, Allow), Errno | 1},
		{result(Errno|1, Errno|2), Errno | 2},
		{result(Trap, Errno), Trap},
		{result(KillThread, KillProcess), KillProcess},
		{result(KillProcess, KillThread), KillProcess},
		{result(Log, Trace|7), Trace | 7},
		{result(0x12340000|5, Allow), 0x12340000 | 5},
	} {
		if c.got != c.want {
			t.Errorf("%#x, want %#x", c.got, c.want)
		}
	}
	a, _ := New([]Inst{in(ret, 0)}, nil)
	b, _ := New([]Inst{in(ret, 0)}, a)
	other, _ := New([]Inst{in(ret, 0)}, a)
	if !b.Above(a) || !b.Above(nil) || !b.Above(b) || a.Above(b) || b.Above(other) || !(*Filter)(nil).Above(nil) || (*Filter)(nil).Above(a) {
		t.Error("Above")
	}
}
