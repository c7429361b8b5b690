package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// phdr is a program header in a test file.
type phdr struct {
	typ, flags                           uint32
	offset, vaddr, filesz, memsz, palign uint64
}

// makeELF builds an ELF file and lets edit change its header.
func makeELF(typ uint16, interp string, loads []phdr, edit func(ehdr []byte)) []byte {
	le := binary.LittleEndian
	phdrs := append([]phdr{{typ: ptGNUStack, flags: 6}}, loads...)
	if interp != "" {
		at := uint64(ehdrSize + phdrSize*(len(phdrs)+1))
		phdrs = append(phdrs, phdr{typ: ptInterp, offset: at, filesz: uint64(len(interp)), memsz: uint64(len(interp))})
	}
	b := make([]byte, ehdrSize)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], typ)
	le.PutUint16(b[18:], machineX8664)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], 0x401000)
	le.PutUint64(b[32:], ehdrSize)
	le.PutUint16(b[52:], ehdrSize)
	le.PutUint16(b[54:], phdrSize)
	le.PutUint16(b[56:], uint16(len(phdrs)))
	for _, p := range phdrs {
		b = le.AppendUint32(b, p.typ)
		b = le.AppendUint32(b, p.flags)
		for _, x := range []uint64{p.offset, p.vaddr, p.vaddr, p.filesz, p.memsz, p.palign} {
			b = le.AppendUint64(b, x)
		}
	}
	b = append(b, interp...)
	if edit != nil {
		edit(b)
	}
	return b
}

// text is an ordinary segment at an address.
func text(vaddr uint64) []phdr {
	return []phdr{{typ: ptLoad, flags: 5, vaddr: vaddr, filesz: 64, memsz: 0x2345, palign: 0x1000}}
}

func put16(at int, v uint16) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint16(b[at:], v) }
}

func TestParseELF(t *testing.T) {
	file := makeELF(2, "/lib/ld.so\x00", append(text(0x400000), phdr{typ: ptLoad, vaddr: 0x600000, memsz: 1, palign: 0x200000}), nil)
	img, err := parseELF("a", bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	want := image{typ: Exec, entry: 0x401000, interp: "/lib/ld.so", low: 0x400000, high: 0x601000, align: 0x200000}
	if *img != want {
		t.Errorf("got %+v, want %+v", *img, want)
	}
	// The kernel reads neither class nor byte order: nonsense is accepted.
	file = makeELF(3, "", text(0), func(b []byte) { b[classOffset], b[dataOffset] = 77, 0 })
	if _, err := parseELF("a", bytes.NewReader(file), int64(len(file))); err != nil {
		t.Errorf("an odd e_ident: %v", err)
	}
}

func TestParseELFRefuses(t *testing.T) {
	seg := func(p phdr) []byte { p.typ = ptLoad; return makeELF(2, "", []phdr{p}, nil) }
	for _, c := range []struct {
		name  string
		file  []byte
		field string
		want  string
	}{
		{"cut", makeELF(2, "", nil, nil)[:40], "e_ehsize", "is 0x28"},
		{"i386", makeELF(2, "", nil, func(b []byte) { b[4] = 1; put16(18, 3)(b) }), "EI_CLASS", "32-bit ELF (i386)"},
		{"x32", makeELF(2, "", nil, func(b []byte) { b[4] = 1; put16(54, 32)(b) }), "EI_CLASS", "32-bit ELF (x32 ABI)"},
		{"class", makeELF(3, "", text(0), func(b []byte) { b[4] = 1 }), "EI_CLASS", "32-bit ELF (x86-64)"},
		{"byte order", makeELF(3, "", text(0), func(b []byte) { b[5] = 2 }), "EI_DATA", "big-endian ELF"},
		{"segment outside", seg(phdr{offset: 1 << 62, vaddr: 0x400000, filesz: 1, memsz: 1}), "p_offset", "inside of the file"},
		{"arm64", makeELF(2, "", nil, put16(18, 183)), "e_machine", "built for AArch64, not x86-64"},
		{"s390x", makeELF(2, "", nil, func(b []byte) { b[5] = 2; b[18], b[19] = 0, 22 }), "e_machine", "built for S/390"},
		{"unknown machine", makeELF(2, "", nil, put16(18, 9999)), "e_machine", "machine 9999"},
		{"object file", makeELF(1, "", text(0), nil), "e_type", "e_type is 0x1"},
		{"phentsize", makeELF(2, "", text(0x400000), put16(54, 55)), "e_phentsize", "is 0x37, want 56"},
		{"no headers", makeELF(2, "", text(0x400000), put16(56, 0)), "e_phnum", "is 0x0"},
		{"many headers", makeELF(2, "", text(0x400000), put16(56, 1171)), "e_phnum", "want 1 to 1170"},
		{"headers outside", makeELF(2, "", text(0x400000), put16(56, 50)), "e_phoff", "is 0x40"},
		{"headers far outside", makeELF(2, "", nil, func(b []byte) { b[39] = 0xff }), "e_phoff", "is 0xff"},
		{"no segment", makeELF(2, "", nil, nil), "PT_LOAD", "at least one"},
		{"filesz", seg(phdr{vaddr: 0x400000, filesz: 2, memsz: 1}), "p_filesz", "is 0x2"},
		{"kernel address", seg(phdr{vaddr: 1 << 63, memsz: 1}), "p_vaddr", "is 0x8000000000000000"},
		{"wraps round", seg(phdr{vaddr: 0x400000, memsz: ^uint64(0)}), "p_vaddr", "is 0x400000"},
		{"misaligned", seg(phdr{offset: 1, vaddr: 0x400000, filesz: 1, memsz: 1}), "p_offset", "is 0x1"},
		{"interp short", makeELF(2, "\x00", text(0x400000), nil), "PT_INTERP p_filesz", "is 0x1"},
		{"interp long", makeELF(2, strings.Repeat("a", 5000)+"\x00", text(0x400000), nil), "PT_INTERP p_filesz", "is 0x1389"},
		{"interp open", makeELF(2, "/lib/ld", text(0x400000), nil), "PT_INTERP", "ends with 0"},
		{"interp outside", makeELF(2, "", append(text(0x400000), phdr{typ: ptInterp, offset: 1 << 63, filesz: 9}), nil), "PT_INTERP p_offset", "inside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseELF("a", bytes.NewReader(c.file), int64(len(c.file)))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Field != c.field || !strings.Contains(e.Reason, c.want) || e.ExitStatus != ExitCannotExecute {
				t.Errorf("error %+v, want field %q, text %q", err, c.field, c.want)
			}
		})
	}
}

func TestFitsNear(t *testing.T) {
	for _, c := range []struct {
		typ       Type
		low, high uint64
		want      string
	}{
		{Exec, 0x400000, 0x500000, ""},
		{Exec, NearLow, NearHigh, ""},
		{Exec, 0, 0x1000, "address of 0x0"},
		{Exec, 0x400000, 0x7ffc_0000, ""},
		{Exec, 0x7fff0000, 0x80000000, ""},
		{Exec, 0x400000, 0x2_80000000, ""},
		{Exec, 0x400000, fixedBelow, ""},
		{Exec, 0x400000, fixedBelow + 0x1000, "address of 0x200000001000"},
		{Dyn, 0, 0x1000, ""},
		{Dyn, 0, 1 << 31, "span 2048 MiB"},
	} {
		err := fitsNear("a", &image{typ: c.typ, low: c.low, high: c.high})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c, err, c.want)
		}
	}
}

func TestParseScript(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		line, interp, arg string
		ok                bool
	}{
		{"#!/bin/sh\n", "/bin/sh", "", true},
		{"#! \t/bin/sh  -x y \t\nmore", "/bin/sh", "-x y", true},
		{"#!/bin/sh", "/bin/sh", "", true},
		{"#!/bin/sh -e", "/bin/sh", "-e", true},
		{"#!/bin/sh\x00-e\n", "/bin/sh", "", true},
		{"#!/bin/sh " + long, "/bin/sh", long[:headSize-1-10], true},
		{"#!" + long, "", "", false},
		{"#!\n", "", "", false},
		{"#!   \t \n/bin/sh\n", "", "", false},
		{"#!" + strings.Repeat(" ", 300), "", "", false},
		{"#!", "", "", false},
		{"#", "", "", false},
		{"/bin/sh\n", "", "", false},
	} {
		var head [headSize]byte
		copy(head[:], c.line)
		interp, arg, ok := parseScript(&head)
		if interp != c.interp || arg != c.arg || ok != c.ok {
			t.Errorf("%.30q: %q %q %v, want %q %q %v", c.line, interp, arg, ok, c.interp, c.arg, c.ok)
		}
	}
}
