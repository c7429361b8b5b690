//go:build linux && amd64

package tests

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
	"xvrun/xv"
)

// TestRelocate runs guests while all that xv has in them moves to a random place, low or far, ten times a second, fifty with -soak, with
// all translations, with those in use, and without any: they must do what they do natively.
func TestRelocate(t *testing.T) {
	harness.NeedXvrun(t)
	pause := 100 * time.Millisecond
	if *harness.Soak {
		pause = 20 * time.Millisecond
	}
	for _, c := range []struct {
		src  string
		args []string
		long bool     // it works until its input ends
		opts []string // of the compiler
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
		{src: "c/trampoline.c", opts: []string{"-Wl,-z,execstack"}},
		{src: "c/toggle.c", opts: []string{"-lpthread"}},
		{src: "c/writers.c"},
		{src: "c/storm.c", args: []string{"2000"}},
		{src: "go/runtime.go"},
		{src: "c/moved.c", long: true},
	} {
		t.Run(stem(c.src), func(t *testing.T) {
			t.Parallel()
			program := harness.Guest(t, c.src, harness.PIE, c.opts...)
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

// TestRelocatePrograms moves programs of the machine, and of Go, four times a second; with -soak each millisecond, again and again until
// each has been moved 100,000 times.
func TestRelocatePrograms(t *testing.T) {
	harness.NeedXvrun(t)
	pause, want := 250*time.Millisecond, 1
	if *harness.Soak {
		pause, want = time.Millisecond, 100_000
	}
	const pipelines = `for i in 1 2 3 4 5 6 7 8; do seq 2000 | sort -n | uniq | tail -1 | tr 0-9 a-j; (exit $i) | cat; echo ${PIPESTATUS[0]} $(echo $i | sed s/./x/); done`
	for _, c := range []struct {
		name    string
		program func() string
		args    []string
	}{
		{"bash", func() string { return need.Tool(t, "bash") }, []string{"-c", pipelines}},
		{"python", func() string { return harness.Python(t)[0] }, []string{script("py", "threads.py")}},
		{"go", func() string { return harness.Guest(t, "go/runtime.go", harness.Static) }, nil},
		{"node", func() string { return need.Tool(t, "node") }, []string{script("js", "script.js")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			moves, runs := 0, 0
			for ; moves < want && !t.Failed(); runs++ {
				var stop func() int
				harness.Hosted{Program: c.program(), Args: c.args, Limit: 5 * time.Minute, Prepare: func(cmd *xv.Cmd) {
					if runs%2 == 1 {
						cmd.Options.Returns = xv.AutoReturns
					}
				}, Started: func(p *xv.Process) {
					stop = harness.RelocateOften(t, p, pause)
				}}.Compare(t)
				moves += stop()
			}
			t.Logf("%d moves in %d runs", moves, runs)
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
		if _, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: pid, Keep: xv.Keeping(i % 3), Far: i%4 < 2}); err != nil {
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

// TestCollectManyTimes looks for what hundreds of collections leave behind.
func TestCollectManyTimes(t *testing.T) {
	t.Parallel()
	harness.NeedXvrun(t)
	program := harness.Guest(t, "c/collected.c", harness.PIE)
	cmd := xv.Command(program, "endless")
	cmd.Options.CacheSize = 128 << 10
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	collect := func(n uint64) used {
		var b [1]byte
		for cmd.Process.Stats().Collections < n {
			if _, err := in.Write(b[:]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, b[:]); err != nil {
				t.Fatal(err)
			}
		}
		return usedBy(t, cmd.Process.Pid)
	}
	before, after := collect(50), collect(250)
	if after.mappings > before.mappings+5 || after.files > before.files+5 || after.pages > before.pages+1024 || after.heap > before.heap+32<<20 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	in.Close()
	if rest, err := io.ReadAll(out); err != nil || string(rest) != "ok\n" {
		t.Errorf("%q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
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

// TestRelocateKilled kills programs of several threads while they move. Nothing waits for them then.
func TestRelocateKilled(t *testing.T) {
	t.Parallel()
	harness.NeedXvrun(t)
	times := 20
	if *harness.Soak {
		times = 2000
	}
	program := harness.Guest(t, "c/moved.c", harness.PIE)
	for i := range times {
		cmd := xv.Command(program)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p := cmd.Process
		stop := harness.RelocateOften(t, p, 0)
		time.Sleep(20*time.Millisecond + rand.N(20*time.Millisecond))
		if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		watch := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("process %d, the %dth, was killed, but does not end", p.Pid, i)) })
		cmd.Wait()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
			t.Errorf("the %dth: %v", i, cmd.ProcessState)
		}
		p.WaitAll()
		watch.Stop()
		stop()
		in.Close()
	}
}
