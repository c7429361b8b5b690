//go:build linux && amd64

package tests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

// TestRelocate runs guests while all that xv has in them moves to a random place ten times a second, fifty with -soak, every other time
// without the translations: they must do what they do natively.
func TestRelocate(t *testing.T) {
	harness.NeedXvrun(t)
	pause := 100 * time.Millisecond
	if *harness.Soak {
		pause = 20 * time.Millisecond
	}
	for _, c := range []struct {
		src  string
		args []string
		long bool // it works until its input ends
	}{
		{src: "c/signals.c"},
		{src: "c/sigqueue.c"},
		{src: "c/syncsignals.c"},
		{src: "c/threads.c"},
		{src: "c/pthreads.c"},
		{src: "c/forks.c"},
		{src: "c/procs.c"},
		{src: "c/killed.c"},
		{src: "c/poll.c"},
		{src: "c/jit.c"},
		{src: "c/code.c"},
		{src: "c/apart.c"},
		{src: "c/storm.c", args: []string{"2000"}},
		{src: "go/runtime.go"},
		{src: "c/moved.c", long: true},
	} {
		t.Run(stem(c.src), func(t *testing.T) {
			t.Parallel()
			program := harness.Guest(t, c.src, harness.PIE)
			var stop func() int
			harness.Hosted{Program: program, Args: c.args, Limit: 2 * time.Minute, Prepare: func(cmd *xv.Cmd) {
				if c.long {
					cmd.Stdin = lasting(time.Second)
				}
			}, Started: func(p *xv.Process) {
				stop = harness.RelocateOften(t, p, pause)
			}}.Compare(t)
			if stop() == 0 {
				t.Error("nothing was moved")
			}
		})
	}
}

// lasting is an input that is empty, and ends only after a time.
type lasting time.Duration

func (l lasting) Read([]byte) (int, error) {
	time.Sleep(time.Duration(l))
	return 0, io.EOF
}

// TestRelocateManyTimes moves a program of eight threads without a pause, and looks for what that may leave behind. It is a soak.
func TestRelocateManyTimes(t *testing.T) {
	harness.NeedXvrun(t)
	harness.NeedSoak(t)
	program := harness.Guest(t, "c/moved.c", harness.PIE)
	cmd := xv.Command(program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	var before used
	for i := range 100_000 {
		if i == 1000 {
			before = usedBy(t, pid)
		}
		if _, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: pid, Discard: i%2 == 1}); err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
		if i%10_000 == 9999 {
			t.Logf("%d moves: %+v", i+1, usedBy(t, pid))
		}
	}
	if after := usedBy(t, pid); after.mappings > before.mappings+50 || after.files > before.files+5 || after.own > before.own+20 || after.pages > before.pages+4096 || after.heap > before.heap+32<<20 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	in.Close()
	if err := cmd.Wait(); err != nil || !strings.HasSuffix(out.String(), "\nok\n") {
		t.Errorf("%v, output %q", err, &out)
	}
}

// used is what a process has: mappings, files, resident pages; and xv for it: files, bytes of the heap.
type used struct {
	mappings, files, pages, own int
	heap                        uint64
}

func usedBy(t *testing.T, pid int) used {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", pid)
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	statm, err := os.ReadFile(dir + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{bytes.Count(maps, []byte("\n")), len(files), resident, len(own), m.HeapAlloc}
}
