//go:build linux && amd64

package virt

import (
	"strings"
	"testing"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

// TestOriginalMaps turns the kernel's mappings of a guest into those of its program.
func TestOriginalMaps(t *testing.T) {
	parse := func(lines string) []loader.VMA {
		var text strings.Builder
		for line := range strings.Lines(lines) {
			text.WriteString(strings.TrimLeft(line, "\t"))
		}
		maps, err := loader.ParseMaps([]byte(strings.TrimPrefix(text.String(), "\n")))
		if err != nil {
			t.Fatal(err)
		}
		return maps
	}
	const rwx, rx = loader.ProtRead | loader.ProtWrite | loader.ProtExec, loader.ProtRead | loader.ProtExec
	for _, c := range []struct {
		name, kernel, want string
		code               ranges
		protected          []uint64
	}{
		{"code", `
			10000000-10001000 r--p 00000000 08:01 7 /bin/a
			10001000-10003000 r--p 00001000 08:01 7 /bin/a
			10003000-10004000 r--p 00003000 08:01 7 /bin/a`, `
			10000000-10001000 r--p 00000000 08:01 7 /bin/a
			10001000-10003000 r-xp 00001000 08:01 7 /bin/a
			10003000-10004000 r--p 00003000 08:01 7 /bin/a`,
			ranges{{0x10001000, 0x10003000, rx}}, nil},
		{"part of a mapping", `
			10000000-10004000 r--p 00000000 08:01 7 /bin/a`, `
			10000000-10001000 r--p 00000000 08:01 7 /bin/a
			10001000-10003000 r-xp 00001000 08:01 7 /bin/a
			10003000-10004000 r--p 00003000 08:01 7 /bin/a`,
			ranges{{0x10001000, 0x10003000, rx}}, nil},
		{"pages that are translated", `
			20000000-20001000 rw-p 00000000 00:00 0
			20001000-20002000 r--p 00000000 00:00 0
			20002000-20003000 rw-p 00000000 00:00 0`, `
			20000000-20003000 rwxp 00000000 00:00 0`,
			ranges{{0x20000000, 0x20003000, rwx}}, []uint64{0x20001000}},
		{"aliases of these", `
			20000000-20001000 r--s 00000000 00:01 9 /memfd:code (deleted)
			20001000-20002000 rw-s 00001000 00:01 9 /memfd:code (deleted)`, `
			20000000-20002000 rw-s 00000000 00:01 9 /memfd:code (deleted)`,
			nil, []uint64{0x20000000}},
		{"what the kernel keeps apart", `
			20000000-20001000 rw-p 00000000 00:00 0
			20001000-20002000 rw-p 00000000 00:00 0`, `
			20000000-20001000 rw-p 00000000 00:00 0
			20001000-20002000 rw-p 00000000 00:00 0`,
			nil, nil},
		{"xv", `
			10000000-10001000 r--p 00000000 08:01 7 /bin/a
			40000000-40010000 r-xs 00000000 00:01 3 /memfd:xv-agent (deleted)
			40100000-50000000 rw-s 00000000 00:01 4 /memfd:xv-contexts (deleted)
			50000000-70000000 r-xs 00000000 00:01 5 /memfd:xv-cache (deleted)
			7ffc0000-fffc0000 r--s 00000000 00:01 6 /memfd:xv-tables (deleted)
			7f0000000000-7f0000001000 r--s 00000000 00:01 9 /memfd:mine (deleted)`, `
			10000000-10001000 r--p 00000000 08:01 7 /bin/a
			7f0000000000-7f0000001000 r--s 00000000 00:01 9 /memfd:mine (deleted)`,
			nil, nil},
	} {
		protected := map[uint64]struct{}{}
		for _, page := range c.protected {
			protected[page] = struct{}{}
		}
		got, want := originalMaps(abi.First, parse(c.kernel), c.code, protected), parse(c.want)
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", c.name, got, want)
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: %v, want %v", c.name, got[i], want[i])
			}
		}
	}
}

func TestExecutableFlags(t *testing.T) {
	for flags, want := range map[string]string{
		"rd mr mw me \n":    "VmFlags: rd ex mr mw me \n",
		"rd wr mr mw me \n": "VmFlags: rd wr ex mr mw me \n",
		"mr mw me \n":       "VmFlags: ex mr mw me \n",
	} {
		if got := string(executableFlags([]byte(flags))); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Mappings that page tools have split are shown as one, and with the guest's protections.
func TestUnshadowed(t *testing.T) {
	const rw = loader.ProtRead | loader.ProtWrite
	kernel := `10000-20000 r--p 00000000 08:01 7 /bin/a
20000000-20001000 rw-p 00000000 00:00 0 
20001000-20002000 ---p 00000000 00:00 0 
20002000-20004000 r--p 00000000 00:00 0 
20004000-20008000 rw-p 00000000 00:00 0 
20008000-20009000 rw-p 00000000 00:00 0 
`
	maps, err := loader.ParseMaps([]byte(kernel))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, v := range unshadowed(maps, ranges{{0x12000, 0x13000, rw}, {0x20001000, 0x20003000, rw}, {0x20003000, 0x20005000, loader.ProtRead}}) {
		got.WriteString(v.String() + "\n")
	}
	want := `00010000-00012000 r--p 00000000 08:01 7 /bin/a
00012000-00013000 rw-p 00002000 08:01 7 /bin/a
00013000-00020000 r--p 00003000 08:01 7 /bin/a
20000000-20003000 rw-p 00000000 00:00 0
20003000-20005000 r--p 00000000 00:00 0
20005000-20008000 rw-p 00000000 00:00 0
20008000-20009000 rw-p 00000000 00:00 0
`
	strip := func(s string) string {
		var b strings.Builder
		for line := range strings.Lines(s) {
			b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
		return b.String()
	}
	if strip(got.String()) != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}
