package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
)

// holdings are what a supervisor can leak.
type holdings struct {
	descriptors, mappings, threads, contextPages int
}

func (h holdings) exceeds(base holdings) bool {
	// The runtime's own threads and heap come and go.
	return h.descriptors > base.descriptors+4 || h.mappings > base.mappings+30 || h.threads > base.threads+8 ||
		h.contextPages > base.contextPages+base.contextPages/2
}

func holdingsOf(t *testing.T, pid int) (h holdings) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	for name, n := range map[string]*int{"fd": &h.descriptors, "task": &h.threads} {
		entries, err := os.ReadDir(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		*n = len(entries)
	}
	smaps, err := os.ReadFile(dir + "smaps")
	if err != nil {
		t.Fatal(err)
	}
	contexts := false
	for line := range strings.Lines(string(smaps)) {
		var kilobytes int
		switch {
		case strings.HasPrefix(line, "VmFlags:"):
			h.mappings++
			contexts = false
		case strings.Contains(line, "memfd:xv-contexts"):
			contexts = true
		case contexts && strings.HasPrefix(line, "Rss:"):
			fmt.Sscanf(line, "Rss: %d", &kilobytes)
			h.contextPages += kilobytes / 4
		}
	}
	return h
}

// TestLeaks lets a guest make and end threads, processes and programs, and looks at what the supervisor holds after each
// round. What leaks grows in every round, what the runtime holds because the machine is busy does not: the test ends when a
// few rounds in a row have added nothing.
func TestLeaks(t *testing.T) {
	harness.NeedXvrun(t)
	t.Parallel()
	const inRow, most = 2, 10
	r := harness.Start(t, harness.Command(t, harness.Guest(t, "c/churn.c", harness.PIE), "wait"))
	proceed := func(name string) {
		if err := os.WriteFile(filepath.Join(r.Dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var after []holdings // each round so far
	for {
		round := len(after)
		proceed("go." + itoa(round))
		r.WaitOutput("round "+itoa(round)+"\n", time.Minute)
		last := holdingsOf(t, r.Pid())
		after = append(after, last)
		if round <= inRow { // the first ones fill what is used again
			continue
		}
		base := after[round-inRow]
		// What the last processes had is given back a moment after their end.
		for deadline := time.Now().Add(5 * time.Second); last.exceeds(base) && time.Now().Before(deadline); last = holdingsOf(t, r.Pid()) {
			time.Sleep(20 * time.Millisecond)
		}
		if !last.exceeds(base) {
			break
		}
		if round == most {
			t.Errorf("the supervisor holds more after each round: %+v", after)
			break
		}
	}
	proceed("end")
	if ws := r.Wait(20 * time.Second); ws.ExitStatus() != 0 {
		t.Errorf("%s\n%s", harness.StatusString(ws), r.Stdout.Bytes())
	}
}
