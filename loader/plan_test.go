package loader

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the plans in testdata")

// bump returns an allocator that hands out the near zone from an address on.
func bump(next uint64) func(size, align uint64) (uint64, error) {
	return func(size, align uint64) (uint64, error) {
		base := (next + align - 1) &^ (align - 1)
		if base+size > NearHigh {
			return 0, errors.New("near zone is full")
		}
		next = (base + size + pageSize - 1) &^ (pageSize - 1)
		return base, nil
	}
}

// TestPlan reads testdata: the maps of a real process at its exec stop, the
// entries of its auxiliary vector, its instruction pointer, and the plan.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(string(text), "--\n")
			if len(parts) != 3 {
				t.Fatalf("%d parts, want 3", len(parts))
			}
			maps, err := ParseMaps([]byte(parts[0]))
			if err != nil {
				t.Fatal(err)
			}
			var rip uint64
			var aux []AuxEntry
			if _, err := fmt.Sscanf(parts[1], "rip=%x", &rip); err != nil {
				t.Fatal(err)
			}
			for _, f := range strings.Fields(parts[1])[1:] {
				var e AuxEntry
				if _, err := fmt.Sscanf(f, "%d=%x", &e.Tag, &e.Value); err != nil {
					t.Fatal(err)
				}
				aux = append(aux, e)
			}
			got := ""
			l, err := Plan(maps, aux, bump(0x1000_0000))
			if err != nil {
				got = err.Error() + "\n"
			} else {
				got = render(l, rip)
				checkLayout(t, l, maps)
			}
			if *update {
				text := parts[0] + "--\n" + parts[1] + "--\n" + got
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != parts[2] {
				t.Errorf("plan:\n%s\nwant:\n%s", got, parts[2])
			}
		})
	}
}

func render(l *Layout, rip uint64) string {
	var b strings.Builder
	for _, img := range l.Images {
		fmt.Fprintf(&b, "%s %s %x-%x to %x\n", img.Kind, img.Path, img.Low, img.High, img.NewLow)
	}
	for _, m := range l.Moves {
		fmt.Fprintf(&b, "  %x-%x to %x prot %d exec %v\n", m.OldStart, m.OldEnd, m.NewStart, m.Prot, m.Exec)
	}
	for _, p := range l.Patches {
		fmt.Fprintf(&b, "auxv[%d] tag %d = %x\n", p.Index, p.Tag, p.Value)
	}
	entry, ok := l.Translate(rip)
	fmt.Fprintf(&b, "entry %x %v\nstack %x-%x exec %v\n", entry, ok, l.Stack.Start, l.Stack.End, l.ExecStack)
	return b.String()
}

// checkLayout checks what must hold for every plan.
func checkLayout(t *testing.T, l *Layout, maps []VMA) {
	t.Helper()
	moved := make(map[uint64]Move)
	for _, m := range l.Moves {
		moved[m.OldStart] = m
		end := m.NewStart + (m.OldEnd - m.OldStart)
		if m.NewStart < NearLow || end > fixedBelow || m.NewStart%pageSize != 0 {
			t.Errorf("%#x-%#x goes to %#x", m.OldStart, m.OldEnd, m.NewStart)
		}
		if (m.OldStart-m.NewStart)%placement != 0 && !vdsoMove(l, m) {
			t.Errorf("%#x goes to %#x, which is aligned otherwise", m.OldStart, m.NewStart)
		}
		for _, v := range maps {
			if !m.Stays() && v.Start < end && m.NewStart < v.End {
				t.Errorf("%#x-%#x goes to %#x over %#x-%#x", m.OldStart, m.OldEnd, m.NewStart, v.Start, v.End)
			}
		}
		for _, o := range l.Moves {
			if o != m && o.NewStart < end && m.NewStart < o.NewStart+(o.OldEnd-o.OldStart) {
				t.Errorf("%#x and %#x both go to %#x", m.OldStart, o.OldStart, o.NewStart)
			}
		}
	}
	for _, v := range maps {
		if _, ok := moved[v.Start]; !ok && v.Prot&ProtExec != 0 && v.Path != "[vsyscall]" && v.Path != "[stack]" {
			t.Errorf("executable %#x-%#x %s is in no image", v.Start, v.End, v.Path)
		}
	}
}

func vdsoMove(l *Layout, m Move) bool {
	for _, img := range l.Images {
		if img.Kind == VDSO && img.Low <= m.OldStart && m.OldStart < img.High {
			return true
		}
	}
	return false
}

func TestPlanRefuses(t *testing.T) {
	const (
		stack = "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]\n"
		prog  = "555555554000-555555556000 r-xp 00000000 08:01 7 /bin/a\n"
	)
	fixed := func(addr uint64) func(uint64, uint64) (uint64, error) {
		return func(uint64, uint64) (uint64, error) { return addr, nil }
	}
	for _, c := range []struct {
		name, maps string
		alloc      func(size, align uint64) (uint64, error)
		want       string
	}{
		{"empty", "", bump(NearLow), "no executable"},
		{"no program", stack, bump(NearLow), "no executable"},
		{"no stack", prog, bump(NearLow), "no stack"},
		{"below the zone", "00001000-00002000 r-xp 00000000 08:01 7 /bin/a\n" + stack, bump(NearLow), "across the border"},
		{"too large", "555555554000-555595555000 r-xp 00000000 08:01 7 /bin/a\n" + stack, bump(NearLow), "spans 1024 MiB"},
		{"zone is full", prog + stack, bump(NearHigh - pageSize), "no place for program"},
		{"misaligned place", prog + stack, fixed(NearLow + 1), "not aligned"},
		{"place too high", prog + stack, fixed(1 << 62), "is above"},
		{"place at the edge", prog + stack, fixed(fixedBelow), "is not between"},
		{"place below", "555555400000-555555401000 r-xp 00000000 08:01 7 /bin/a\n" + stack, fixed(0), "is not between"},
		{"place taken", "20154000-20155000 rw-p 00000000 00:00 0 [anon:x]\n" + prog + stack, fixed(0x2000_0000), "is taken"},
		{"same place twice", prog + "7f0000154000-7f0000155000 r-xp 00000000 08:01 8 /lib/ld\n" + stack, fixed(0x2000_0000), "another image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			maps, err := ParseMaps([]byte(c.maps))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Plan(maps, []AuxEntry{{AtPhdr, 0x555555554040}, {AtBase, 0x7f0000154000}}, c.alloc)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := Plan([]VMA{{Start: 2 * pageSize, End: pageSize}}, nil, bump(NearLow)); err == nil {
		t.Error("Plan accepted a mapping that ends before it starts")
	}
	if _, err := Plan(make([]VMA, maxMaps+1), nil, bump(NearLow)); err == nil {
		t.Error("Plan accepted too many mappings")
	}
}

func TestParseMaps(t *testing.T) {
	maps, err := ParseMaps([]byte("00400000-00401000 r-xp 0001f000 fe:1a 99 /a b (deleted)\n" +
		"ffffffffff600000-ffffffffff601000 --xs 00000000 00:00 0                  [vsyscall]"))
	if err != nil {
		t.Fatal(err)
	}
	want := []VMA{
		{Start: 0x400000, End: 0x401000, Prot: ProtRead | ProtExec, Offset: 0x1f000, Dev: 0xfe<<32 | 0x1a, Inode: 99, Path: "/a b (deleted)"},
		{Start: 0xffffffffff600000, End: 0xffffffffff601000, Prot: ProtExec, Shared: true, Path: "[vsyscall]"},
	}
	if fmt.Sprint(maps) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", maps, want)
	}
	for _, bad := range []string{
		"\n", "x", "1000-2000", "1000-2000 rwxp", "2000-1000 rw-p 0 0:0 0", "1000-1000 rw-p 0 0:0 0",
		"1001-2000 rw-p 0 0:0 0", "1000-2000 rwzp 0 0:0 0", "1000-2000 rw-p 0 0:0 z", "1000-2000 rw-p 0 0:0 ",
		"-2000 rw-p 0 0:0 0", "11111111111111111000-2000 rw-p 0 0:0 0", "1000-2000 rw-p 0 111111111:0 0",
	} {
		if _, err := ParseMaps([]byte(bad)); err == nil {
			t.Errorf("ParseMaps(%q) gives no error", bad)
		}
	}
}

// TestParseMapsChanging has a text that the kernel wrote while mappings became larger.
func TestParseMapsChanging(t *testing.T) {
	maps, err := ParseMaps([]byte("1000-3000 rw-p 0 0:0 0\n1000-2000 rw-p 0 0:0 0\n1000-5000 rw-p 0 0:0 0\n" +
		"5000-6000 r--s 3000 8:1 7 /a\n5000-8000 r--s 3000 8:1 7 /a\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []VMA{
		{Start: 0x1000, End: 0x3000, Prot: ProtRead | ProtWrite},
		{Start: 0x3000, End: 0x5000, Prot: ProtRead | ProtWrite},
		{Start: 0x5000, End: 0x6000, Prot: ProtRead, Shared: true, Offset: 0x3000, Dev: 8<<32 | 1, Inode: 7, Path: "/a"},
		{Start: 0x6000, End: 0x8000, Prot: ProtRead, Shared: true, Offset: 0x4000, Dev: 8<<32 | 1, Inode: 7, Path: "/a"},
	}
	if fmt.Sprint(maps) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", maps, want)
	}
}
