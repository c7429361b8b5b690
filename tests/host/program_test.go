//go:build linux && amd64

package host

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"xvrun/loader"
	"xvrun/tests/need"
	"xvrun/xv"
	"xvrun/xv/trap"
)

// A program with threads, children, signals and files, whose memory the host watches meanwhile.
const busyProgram = `
import os, signal, subprocess, sys, tempfile, threading, time, zlib
print("ready", flush=True)
sys.stdin.readline()
hits = []
signal.signal(signal.SIGALRM, lambda *a: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
totals = []
def work(n):
    data = bytes(range(256)) * 400
    with tempfile.TemporaryFile() as f:
        for i in range(8):
            f.write(zlib.compress(data + bytes([i, n])))
            f.seek(0)
            totals.append(len(f.read()) > 0)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for t in threads: t.start()
for t in threads: t.join()
out = [subprocess.run(["sh", "-c", "echo $((6*7)); cat"], input=b"x" * 5000, capture_output=True).stdout for i in range(3)]
pid = os.fork()
if pid == 0:
    os._exit(sum(totals))
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(totals), status, [len(o) for o in out], len(hits) > 0, sum(i * i for i in range(30000)))
`

// pythonGuest is a guest that runs a program of Python's and is spoken with.
func pythonGuest(t *testing.T, program string) (cmd *xv.Cmd, in io.Writer, out *bufio.Reader) {
	t.Helper()
	cmd, _ = guest(t, "c/paged.c")
	cmd.Path, cmd.Args, cmd.Stdout = need.Tool(t, "python3"), []string{"python3", "-c", program}, nil
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewReader(stdout)
}

// busy runs the program and calls each for its mappings that can be written, when it is about to begin.
func busy(t *testing.T, each func(p *xv.Process, m xv.Memory), during func()) {
	t.Helper()
	cmd, in, lines := pythonGuest(t, busyProgram)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	// A tool begins when the thread leaves its read.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, v := range mappings(t, cmd.Process.Pid) {
			if v.Prot&loader.ProtWrite != 0 && !v.Shared && v.Len() < 1<<30 {
				each(cmd.Process, xv.Memory{Addr: v.Start, Len: v.Len()})
			}
		}
		during()
	}()
	time.Sleep(10 * time.Millisecond)
	in.Write([]byte("\n"))
	var rest bytes.Buffer
	rest.ReadFrom(lines)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	<-done
	if want := "32 32 [5003, 5003, 5003] True 8999550005000\n"; rest.String() != want {
		t.Errorf("output %q, want %q", rest.String(), want)
	}
}

func TestTrackDirtyProgram(t *testing.T) {
	t.Parallel()
	var trackers []*xv.DirtyTracker
	written := 0
	busy(t, func(p *xv.Process, m xv.Memory) {
		d, err := p.TrackDirty(m)
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		if err == nil {
			trackers = append(trackers, d)
		}
	}, func() {
		for round := range 3 {
			for _, d := range trackers {
				pages, err := d.Pages()
				if err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Error(err)
				}
				written += len(pages)
				if round == 2 {
					if err := d.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		}
	})
	if written == 0 {
		t.Error("nothing was written")
	}
}

func TestWatchProgram(t *testing.T) {
	t.Parallel()
	var told atomic.Int32
	busy(t, func(p *xv.Process, m xv.Memory) {
		m.Addr += m.Len / 2 // a page of each
		m.Len = 1
		_, err := p.Watch(m, trap.Write, func(c *trap.Context) trap.Action {
			told.Add(1)
			return trap.Proceed
		})
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}, func() {})
	if told.Load() == 0 {
		t.Error("nothing was told")
	}
}
