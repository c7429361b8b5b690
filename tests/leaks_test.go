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
// round.
func TestLeaks(t *testing.T) {
	harness.NeedXvrun(t)
	t.Parallel()
	const rounds, warm = 4, 2 // the first ones fill what is used again
	r := harness.Start(t, harness.Command(t, harness.Guest(t, "c/churn.c", harness.PIE), itoa(rounds)))
	proceed := func(round int) {
		if err := os.WriteFile(filepath.Join(r.Dir, "go."+itoa(round)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var base, last holdings
	for round := range rounds {
		proceed(round)
		r.WaitOutput("round "+itoa(round)+"\n", time.Minute)
		last = holdingsOf(t, r.Pid())
		if round < warm {
			base = last
		}
	}
	// What the last processes had is given back a moment after their end.
	for deadline := time.Now().Add(5 * time.Second); last.exceeds(base) && time.Now().Before(deadline); last = holdingsOf(t, r.Pid()) {
		time.Sleep(20 * time.Millisecond)
	}
	if last.exceeds(base) {
		t.Errorf("the supervisor holds %+v, %d rounds ago %+v", last, rounds-warm, base)
	}
	proceed(rounds)
	if ws := r.Wait(20 * time.Second); ws.ExitStatus() != 0 {
		t.Errorf("%s\n%s", harness.StatusString(ws), r.Stdout.Bytes())
	}
}
