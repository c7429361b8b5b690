//go:build unix

package harness

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Case is one comparison of a native with a translated run.
type Case struct {
	Name string
	Spec
	// Exit is the exit status that the native run must have: a guest that
	// checks itself must not fail natively. Signal is the signal that kills it.
	Exit   int
	Signal syscall.Signal
	// Want, if not empty, must occur in the native output.
	Want string
	// Clean, if set, removes what legitimately differs between two runs.
	Clean func([]byte) []byte
}

// Compare runs c natively and under xvrun and reports every difference.
func Compare(t *testing.T, c Case) {
	t.Helper()
	argv := CommandWith(t, c.Flags, c.Argv...)
	p := newPlace(t)

	native := runIn(p, c.Spec, c.Argv)
	if native.Err != nil {
		t.Fatalf("native run: %v", native.Err)
	}
	c.checkNative(t, native)

	got := runIn(p, c.Spec, argv)
	if got.Err != nil {
		t.Fatalf("translated run: %v", got.Err)
	}
	if c.Clean != nil {
		for _, r := range []*Result{&native, &got} {
			r.Stdout, r.Stderr = c.Clean(r.Stdout), c.Clean(r.Stderr)
		}
	}
	if diff := Diff(native, got); diff != "" {
		t.Errorf("translated run differs (native %v, translated %v):\n%s", native.Elapsed, got.Elapsed, diff)
	}
}

func (c Case) checkNative(t *testing.T, native Result) {
	t.Helper()
	ok := native.Status.Exited() && native.Status.ExitStatus() == c.Exit
	if c.Signal != 0 {
		ok = native.Status.Signaled() && native.Status.Signal() == c.Signal
	}
	if !ok || !bytes.Contains(native.Stdout, []byte(c.Want)) {
		t.Fatalf("bad native run: %s, want exit status %d, signal %d, output with %q\nstdout: %s\nstderr: %s",
			StatusString(native.Status), c.Exit, int(c.Signal), c.Want, excerpt(native.Stdout), excerpt(native.Stderr))
	}
}

// Diff describes the differences between two runs; it is empty if there are none.
func Diff(want, got Result) string {
	var b strings.Builder
	// A core file is not the guest's doing.
	w, g := StatusString(want.Status), StatusString(got.Status)
	if w != g {
		fmt.Fprintf(&b, "status: native %s, translated %s\n", w, g)
	}
	diffText(&b, "stdout", want.Stdout, got.Stdout)
	diffText(&b, "stderr", want.Stderr, got.Stderr)
	names := map[string]bool{}
	for name := range want.Files {
		names[name] = true
	}
	for name := range got.Files {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if want.Files[name] != got.Files[name] {
			diffText(&b, "file "+name, []byte(want.Files[name]), []byte(got.Files[name]))
		}
	}
	return b.String()
}

// diffText shows the first lines that differ.
func diffText(b *strings.Builder, what string, want, got []byte) {
	if bytes.Equal(want, got) {
		return
	}
	w, g := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	fmt.Fprintf(b, "%s differs from line %d on (native %d lines, translated %d):\n", what, i+1, len(w), len(g))
	const show = 12
	for _, side := range []struct {
		sign  string
		lines []string
	}{{"native:     ", w}, {"translated: ", g}} {
		for j := i; j < len(side.lines) && j < i+show; j++ {
			line := side.lines[j]
			if len(line) > 300 {
				line = line[:300] + "..."
			}
			fmt.Fprintf(b, "  %s%s\n", side.sign, line)
		}
	}
}

// StatusString describes a wait status.
func StatusString(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("killed by signal %d (%v)", int(ws.Signal()), ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
