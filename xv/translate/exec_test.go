package translate

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"xvrun/tests/need"
	"xvrun/xv/x86"
)

// TestExecute translates all of a static program ahead of time, fills the lookup tables for every instruction, and
// writes an ELF file in which only the translation is executable. It must behave like the original.
func TestExecute(t *testing.T) {
	near, far := []string{"-static", "-no-pie"}, []string{"-static-pie", "-fpie"}
	for _, c := range []struct {
		name  string
		how   ahead
		flags []string
	}{
		{"near", ahead{}, near},
		{"far", ahead{bias: 1 << 32}, far},
		{"near-checked", ahead{checked: true}, near},
		{"far-checked", ahead{bias: 1 << 32, checked: true}, far},
		{"near-native", ahead{native: true}, near},
		{"far-native", ahead{bias: 1 << 32, native: true}, far},
		{"near-checked-native", ahead{checked: true, native: true}, near},
	} {
		t.Run(c.name, func(t *testing.T) { c.how.execute(t, c.flags) })
	}
}

// execute runs the guest, loaded at a.bias.
func (a *ahead) execute(t *testing.T, flags []string) {
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	if a.native {
		flags = append([]string{"-DNATIVE_RETURNS"}, flags...)
	}
	out, err := exec.Command(need.Tool(t, "gcc"), append(slices.Clone(flags), "-O2", "-mfsgsbase", "-o", guest, "testdata/guest.c")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	native := exec.Command(guest)
	want, err := native.Output()
	if err != nil && native.ProcessState.ExitCode() < 0 {
		t.Fatal(err)
	}
	a.t, a.image = t, loadImage(t, guest, a.bias)
	a.layout = aheadLayout
	a.layout.NativeReturns = a.native
	a.blocks, a.entries, a.insts, a.returns = map[uint64]uint32{}, map[uint64]uint32{}, map[uint64]uint32{}, map[uint64]uint32{}
	a.translate(guest)
	translated := filepath.Join(dir, "translated")
	if err := os.WriteFile(translated, a.link(guest), 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(translated)
	got, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != native.ProcessState.ExitCode() || !bytes.Equal(got, want) {
		t.Errorf("%v (%d, natively %d)\n%s\nnatively\n%s", err, code, native.ProcessState.ExitCode(), got, want)
	}
	t.Logf("%d instructions, %d bytes", len(a.insts), len(a.code))
}

// Addresses of the translated program.
const (
	startAddr   = 0x40000000 // ELF header, start, gate and agent entries
	contextAddr = 0x41000000
	startOff    = 0x800
	gateOff     = 0x900
	missOff     = 0xa00
	specialOff  = 0xa80
	checkWord   = contextAddr + 0x800
)

var aheadLayout = Layout{Table: 0x7ffc0000, Miss: startAddr + missOff, Special: startAddr + specialOff, Gate: startAddr + gateOff}

// ahead is a translation of a whole program.
type ahead struct {
	t       *testing.T
	bias    uint64
	checked bool // all code is compared with what it was, but for the immediate operands that can be loaded from it
	native  bool // returns
	layout  Layout
	image   *image
	code    []byte            // of the cache, at testBase
	blocks  map[uint64]uint32 // cache addresses of bodies
	entries map[uint64]uint32 // of D
	insts   map[uint64]uint32 // of all instructions
	returns map[uint64]uint32 // of return sites, where the processor expects that a return goes
	links   []Link            // offsets are from testBase
	buf     Buffer
}

func (a *ahead) translate(path string) {
	f, err := elf.Open(path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	called := ByCall
	if a.native {
		called = ByJump
	}
	for _, e := range append([]uint64{a.bias + f.Entry}, a.image.entries...) {
		a.region(e, called)
	}
	for i := 0; i < len(a.links); i++ {
		a.region(a.links[i].Target, wayOf(a.links[i]))
	}
	// What only jump tables lead to.
	symbols, err := f.Symbols()
	if err != nil {
		a.t.Fatal(err)
	}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		var in x86.Inst
		var code [x86.MaxLen]byte
		for pc := a.bias + s.Value; pc < a.bias+s.Value+s.Size; pc += uint64(in.Len) {
			if x86.Decode(code[:a.image.ReadCode(pc, code[:])], &in) != nil {
				break
			}
			if _, ok := a.insts[pc]; !ok {
				a.region(pc, ByJump)
			}
		}
	}
	for i := 0; i < len(a.links); i++ {
		a.region(a.links[i].Target, wayOf(a.links[i]))
	}
	for _, l := range a.links {
		if l.Check {
			continue
		}
		to, ok := a.blocks[l.Target]
		switch {
		case ok && l.Call && l.Away:
			to = a.place(EmitCallEntry(a.next(), to))
		case l.Call:
			to, ok = a.directEntry(l.Target)
		case ok && l.Away:
			to = a.place(EmitJumpEntry(a.next(), to))
		}
		if ok {
			binary.LittleEndian.PutUint32(a.code[l.Off:], to-(testBase+l.Off+4))
		}
	}
}

// place appends code to the cache and returns its address.
func (a *ahead) place(code []byte) uint32 {
	at := testBase + uint32(len(a.code))
	a.code = append(a.code, code...)
	for len(a.code)%Align != 0 {
		a.code = append(a.code, 0xcc)
	}
	return at
}

func (a *ahead) next() uint32 { return testBase + uint32(len(a.code)) }

func (a *ahead) region(entry uint64, way Way) {
	if _, ok := a.blocks[entry]; ok {
		return
	}
	reg, err := Discover(a.image, entry, way, Limits{Stop: func(addr uint64) bool { _, ok := a.blocks[addr]; return ok }, Checked: a.checked})
	if err != nil {
		return
	}
	if a.checked {
		reg.Words = [2]uint32{checkWord, checkWord + WordSize}
		reg.Loose = a.loose(&reg)
	}
	base := a.next()
	m, err := Record(a.image, &reg, base, &a.layout, &a.buf)
	if err != nil {
		a.t.Fatal(err)
	}
	frag, err := Emit(a.image, &reg, base, &a.layout, &a.buf)
	if err != nil {
		a.t.Fatal(err)
	}
	a.place(frag.Code)
	for _, e := range frag.Entries {
		if _, ok := a.blocks[e.Addr]; !ok {
			a.blocks[e.Addr] = base + e.Off
		}
	}
	for _, l := range frag.Links {
		l.Off += base - testBase
		a.links = append(a.links, l)
	}
	for _, e := range frag.Returns {
		if _, ok := a.returns[e.Addr]; !ok {
			a.returns[e.Addr] = base + e.Off
		}
	}
	if way == ByCall {
		a.entries[entry] = base + frag.DirectCallEntry
	}
	for _, p := range m.points {
		if _, ok := a.insts[p.RIP]; !ok && p.flags&atInstr != 0 {
			a.insts[p.RIP] = base + p.off
		}
	}
}

// loose lists the instructions of a checked region whose operand can be loaded.
func (a *ahead) loose(reg *Region) (list []uint64) {
	b := reg.Blocks[0]
	code := make([]byte, b.Len)
	a.image.ReadCode(b.Addr, code)
	now := bytes.Clone(code)
	var in x86.Inst
	for at := 0; at < len(code); at += int(in.Len) {
		if err := x86.Decode(code[at:], &in); err != nil {
			a.t.Fatal(err)
		}
		if part := looseImm(&in); part.size > 0 {
			now[at+int(part.off)] ^= 1
		}
	}
	list, ok := Loosen(code, now, b.Addr, nil)
	if !ok || len(list) > 0 && reg.Matches(code, now) {
		a.t.Fatalf("% x: %#x %v", code, list, ok)
	}
	with := *reg
	with.Loose = list
	if !with.Matches(code, now) {
		a.t.Fatalf("% x: does not match without %#x", code, list)
	}
	return list
}

// directEntry returns D of an address.
func (a *ahead) directEntry(addr uint64) (uint32, bool) {
	if e, ok := a.entries[addr]; ok {
		return e, true
	}
	body, ok := a.blocks[addr]
	if ok {
		e := a.place(EmitDirectCallEntry(a.next(), body))
		a.entries[addr] = e
		return e, true
	}
	return 0, false
}

// segment is a program header with its bytes.
type segment struct {
	elf.Prog64
	data []byte
}

// link returns the ELF file.
func (a *ahead) link(path string) []byte {
	lo, size := a.image.addr, uint64(len(a.image.code))
	tableJ, tableC := make([]byte, 8*size), make([]byte, 8*size)
	for pc, body := range a.insts {
		at := 8 * (pc - lo)
		jump, ok := a.returns[pc]
		if !ok {
			jump = a.place(EmitJumpEntry(a.next(), body))
		}
		binary.LittleEndian.PutUint32(tableJ[at:], jump)
		binary.LittleEndian.PutUint32(tableC[at:], a.place(EmitCallEntry(a.next(), body)))
	}
	f, err := elf.Open(path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	var segments []segment
	add := func(typ elf.ProgType, flags elf.ProgFlag, addr, size uint64, data []byte) {
		segments = append(segments, segment{elf.Prog64{
			Type: uint32(typ), Flags: uint32(flags), Vaddr: addr, Filesz: uint64(len(data)), Memsz: size, Align: 0x1000}, data})
	}
	start := make([]byte, 0x1000)
	add(elf.PT_LOAD, elf.PF_R|elf.PF_X, startAddr, 0x1000, start) // at offset 0
	for _, p := range f.Progs {
		data := make([]byte, p.Filesz)
		if _, err := p.ReadAt(data, 0); err != nil && p.Filesz > 0 {
			a.t.Fatal(err)
		}
		switch p.Type {
		case elf.PT_LOAD:
			add(p.Type, p.Flags&^elf.PF_X, a.bias+p.Vaddr, p.Memsz, data)
		case elf.PT_TLS, elf.PT_GNU_STACK:
			add(p.Type, p.Flags, p.Vaddr, p.Memsz, data) // the program adds the bias itself
			segments[len(segments)-1].Align = p.Align
		}
	}
	context := make([]byte, 0x1000)
	copy(context[checkWord-contextAddr:], bytes.Repeat([]byte{0x85, 0x80}, WordSize)) // what is checked may be executed
	add(elf.PT_LOAD, elf.PF_R|elf.PF_W, contextAddr, 0x1000, context)
	add(elf.PT_LOAD, elf.PF_R|elf.PF_X, testBase, uint64(len(a.code)), a.code)
	add(elf.PT_LOAD, elf.PF_R, uint64(aheadLayout.Table)+8*lo, 8*size, tableJ)
	add(elf.PT_LOAD, elf.PF_R, uint64(aheadLayout.Table)+8*(lo+CallBias), 8*size, tableC)

	var out, head bytes.Buffer
	out.Write(start)
	for i := range segments {
		s := &segments[i]
		s.Paddr = s.Vaddr
		if s.Type == uint32(elf.PT_LOAD) && i > 0 {
			out.Write(make([]byte, (s.Vaddr-uint64(out.Len()))&0xfff))
			s.Off = uint64(out.Len())
			out.Write(s.data)
		}
	}
	write := func(v any) {
		if err := binary.Write(&head, binary.LittleEndian, v); err != nil {
			a.t.Fatal(err)
		}
	}
	write(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Entry: startAddr + startOff, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(segments)),
	})
	for _, s := range segments {
		write(s.Prog64)
	}
	copy(out.Bytes(), head.Bytes())
	a.agent(out.Bytes(), a.bias+f.Entry)
	return out.Bytes()
}

// agent writes the code that stands in for the agent.
func (a *ahead) agent(page []byte, entry uint64) {
	var le = binary.LittleEndian
	// mov edi,ARCH_SET_GS ; mov esi,contextAddr ; mov eax,158 ; syscall ; mov gs:[S],rcx ; mov eax,entry ; jmp rax
	start := append(le.AppendUint32([]byte("\xbf\x01\x10\x00\x00\xbe"), contextAddr), "\xb8\x9e\x00\x00\x00\x0f\x05\x65\x48\x89\x0c\x25\x08\x00\x00\x00\xb8"...)
	copy(page[startOff:], append(le.AppendUint32(start, a.blocks[entry]), "\xff\xe0"...))
	// mov gs:[S],rcx ; syscall ; mov rcx,gs:[S] ; jmp qword [rcx*8+Table]
	gate := []byte("\x65\x48\x89\x0c\x25\x08\x00\x00\x00\x0f\x05\x65\x48\x8b\x0c\x25\x08\x00\x00\x00\xff\x24\xcd")
	copy(page[gateOff:], le.AppendUint32(gate, aheadLayout.Table))
	// mov edi,status ; mov eax,231 ; syscall: exit_group
	copy(page[missOff:], "\xbf\x63\x00\x00\x00\xb8\xe7\x00\x00\x00\x0f\x05")
	copy(page[specialOff:], "\xbf\x62\x00\x00\x00\xb8\xe7\x00\x00\x00\x0f\x05")
}
