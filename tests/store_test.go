package tests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// statsOf runs a program with a store and -stats, checks that it does what it does natively, and returns the counters.
func statsOf(t *testing.T, store, program string, args ...string) map[string]int {
	t.Helper()
	report := filepath.Join(t.TempDir(), "stats")
	got := harness.Run(t, harness.Spec{Argv: append([]string{harness.Xvrun(t), "-store", store, "-stats", "-o", report, program}, args...)})
	want := harness.Run(t, harness.Spec{Argv: append([]string{program}, args...)})
	if diff := harness.Diff(want, got); got.Err != nil || diff != "" {
		t.Errorf("with store %q: %v %s", store, got.Err, diff)
	}
	text := readFile(t, report)
	counts := make(map[string]int)
	for _, m := range regexp.MustCompile(`(?m)^(\S.*\S)  +(\d+)$`).FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[2]))
		if err != nil {
			t.Fatal(err)
		}
		counts[string(m[1])] = n
	}
	return counts
}

const (
	translated = "instructions in them"
	restored   = "instructions restored"
)

// TestStore runs programs again and again with one store.
func TestStore(t *testing.T) {
	harness.NeedXvrun(t)
	for _, c := range []struct {
		name string
		argv []string
	}{
		{"static", []string{harness.Guest(t, "c/hello.c", harness.Static)}},
		{"pie", []string{harness.Guest(t, "c/signals.c", harness.PIE)}},
		{"nopie", []string{harness.Guest(t, "c/hello.c", harness.NoPIE)}},
		{"go", []string{harness.Guest(t, "go/hello.go", harness.Static)}},
		{"shell", []string{need.Tool(t, "bash"), "-c", "for i in 1 2 3; do ls / >/dev/null; (echo $i); done | cat"}},
		{"python", []string{harness.Python(t)[0], "-c", "import json; print(json.dumps({'a': [1, 2, 3]}))"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := filepath.Join(t.TempDir(), "s")
			first := statsOf(t, store, c.argv[0], c.argv[1:]...)
			second := statsOf(t, store, c.argv[0], c.argv[1:]...)
			if first[translated] < 1000 || second[translated] > first[translated]/5 || second[restored] < first[translated]/2 {
				t.Errorf("first run %v\nsecond run %v", first, second)
			}
		})
	}
}

// TestStoreUnusable checks that a store which cannot be used changes nothing but the time.
func TestStoreUnusable(t *testing.T) {
	harness.NeedXvrun(t)
	program := harness.Guest(t, "c/hello.c", harness.PIE)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{"", file, filepath.Join(file, "below"), open, "/proc/self", "/dev/null"} {
		for range 2 {
			if st := statsOf(t, store, program); st[restored] != 0 {
				t.Errorf("store %q: %v", store, st)
			}
		}
	}
	if list, err := os.ReadDir(open); err != nil || len(list) > 0 {
		t.Errorf("%v %v", list, err)
	}
}

// TestStoreChanged changes a program of which the store has translations, in place.
func TestStoreChanged(t *testing.T) {
	harness.NeedXvrun(t)
	dir := t.TempDir()
	store, program := filepath.Join(dir, "store"), filepath.Join(dir, "program")
	original := readFile(t, harness.Guest(t, "asm/hello.S", harness.Bare))
	if err := os.WriteFile(program, original, 0o700); err != nil {
		t.Fatal(err)
	}
	// exit(7)'s immediate operand: mov edi,7.
	at := bytes.Index(original, []byte{0xbf, 7, 0, 0, 0})
	if at < 0 {
		t.Fatal("no mov edi,7 in the guest")
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	for status := range 4 {
		// The same inode, size and time each time: only the bytes tell.
		f, err := os.OpenFile(program, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{byte(20 + status/2)}, int64(at)+1); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(program, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		statsOf(t, store, program)
		got := harness.Run(t, harness.Spec{Argv: []string{harness.Xvrun(t), "-store", store, program}})
		if got.Status.ExitStatus() != 20+status/2 {
			t.Errorf("status %v, want %d", got.Status, 20+status/2)
		}
	}
}

// TestStoreDamaged damages what a run left, and lets several runs use the store at the same time.
func TestStoreDamaged(t *testing.T) {
	harness.NeedXvrun(t)
	store := filepath.Join(t.TempDir(), "s")
	program := harness.Guest(t, "c/hello.c", harness.PIE)
	statsOf(t, store, program)
	files, err := filepath.Glob(filepath.Join(store, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	data := readFile(t, files[0])
	for i, damage := range [][]byte{data[:100], append(bytes.Clone(data), 1), bytes.Replace(data, []byte{0x48}, []byte{0x49}, 1000), {}} {
		if err := os.WriteFile(files[0], damage, 0o600); err != nil {
			t.Fatal(err)
		}
		if st := statsOf(t, store, program); st[restored] != 0 {
			t.Errorf("damage %d: %v", i, st)
		}
		if st := statsOf(t, store, program); st[restored] == 0 {
			t.Errorf("after damage %d: %v", i, st)
		}
	}
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for range 3 {
				statsOf(t, store, program)
			}
		})
	}
}
