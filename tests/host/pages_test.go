//go:build linux && amd64

package host

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"xvrun/tests/need"
	"xvrun/xv"
	"xvrun/xv/trap"
)

// What a guest asks for by ud2.
const (
	opStart = 1
	opNext  = 2
	opStop  = 3
)

const pageSize = 4096

// asked answers the ud2 of a guest: with rax the operation, rbx and rcx the memory.
func asked(cmd *xv.Cmd, f func(op uint64, m xv.Memory)) {
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGILL}}, func(c *trap.Context) trap.Action {
		f(c.RAX, xv.Memory{Pid: c.Pid, Addr: c.RBX, Len: c.RCX})
		return trap.Skip
	})
}

// told is the accesses that a watch was told of.
type told struct {
	mu   sync.Mutex
	base uint64
	list []string
}

func (l *told) add(c *trap.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := fmt.Sprintf("%s %d", c.Access, int64(c.Addr-l.base))
	if c.SystemCall {
		text += " call"
	}
	l.list = append(l.list, text)
}

// watched runs a guest that has its memory watched, and returns what was told.
func watched(t *testing.T, mode string, access trap.Access, want string) []string {
	t.Helper()
	cmd, out := guest(t, "c/paged.c", mode)
	var l told
	var w *xv.Watch
	asked(cmd, func(op uint64, m xv.Memory) {
		var err error
		switch op {
		case opStart:
			l.base = m.Addr
			w, err = cmd.Process.Watch(m, access, func(c *trap.Context) trap.Action {
				l.add(c)
				return trap.Proceed
			})
		case opStop:
			err = w.Close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, want)
	return l.list
}

func TestWatch(t *testing.T) {
	t.Parallel()
	got := watched(t, "watch", trap.Read|trap.Write, "6 1122334455667788 tf 0\n")
	want := []string{"write 0", "read 0", "write 8", "write 4092", "write 4096", "write 4152", "read 4152", "write 4152"}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("told %q, want %q and the rest of a call", got, want)
	}
}

func TestWatchWritesOnly(t *testing.T) {
	t.Parallel()
	got := watched(t, "watch", trap.Write, "6 1122334455667788 tf 0\n")
	if slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "read") }) || len(got) < 5 || got[0] != "write 0" {
		t.Errorf("told %q", got)
	}
}

func TestWatchReadsOnly(t *testing.T) {
	t.Parallel()
	got := watched(t, "watch", trap.Read, "6 1122334455667788 tf 0\n")
	if len(got) < 2 || slices.ContainsFunc(got, func(s string) bool { return !strings.HasPrefix(s, "read") }) {
		t.Errorf("told %q", got)
	}
}

// A guest ends with an error if a watched page can't be opened for an access, instead of faulting for ever.
func TestWatchNoRoom(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "full")
	asked(cmd, func(op uint64, m xv.Memory) {
		if _, err := cmd.Process.Watch(m, trap.Write, func(*trap.Context) trap.Action { return trap.Proceed }); err != nil {
			t.Error(err)
		}
	})
	err := cmd.Run()
	if out.String() == "no limit\n" {
		need.Missing(t, "a vm.max_map_count below 1<<20")
	}
	if err == nil || !strings.Contains(err.Error(), "watched memory") || !errors.Is(err, syscall.ENOMEM) || out.String() != "full\n" {
		t.Errorf("%v, output %q", err, out)
	}
}

// Each iteration of a string instruction is an access.
func TestWatchString(t *testing.T) {
	t.Parallel()
	got := watched(t, "string", trap.Write, "0 3 3\n")
	var want []string
	for i := range 24 {
		want = append(want, fmt.Sprint("write ", 8*i))
	}
	for i := range 64 {
		want = append(want, fmt.Sprint("write ", 4096-64+i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("told %q", got)
	}
}

// The kernel's accesses are told, and happen as a whole.
func TestWatchSystemCalls(t *testing.T) {
	t.Parallel()
	got := watched(t, "calls", trap.Read|trap.Write, "8192\n15\n7\nxxx\n")
	want := []string{"write 0 call", "write 0 call", "read 4096 call"}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestWatchMappings(t *testing.T) {
	t.Parallel()
	got := watched(t, "mapping", trap.Write, "0-8 rw-p\n0-2 rw-p\n2-3 r--p\n3-8 rw-p\n1102\n1 1 1 1 1\n")
	if want := []string{"write 0", "write 4096", "write 16384"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestWatchCode(t *testing.T) {
	t.Parallel()
	got := watched(t, "generated", trap.Write, "1700000 6\n")
	if want := slices.Repeat([]string{"write 1"}, 4); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// Threads and signals disturb no access; each that is told of is one of the guest's.
func TestWatchThreads(t *testing.T) {
	t.Parallel()
	got := watched(t, "threads", trap.Write, "1200\n")
	if len(got) < 300 || slices.ContainsFunc(got, func(s string) bool { return s != "write 0" }) {
		t.Errorf("told %d times: %.100q", len(got), got)
	}
}

func TestProtect(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "protect")
	var w *xv.Watch
	asked(cmd, func(op uint64, m xv.Memory) {
		var err error
		if op == opStart {
			w, err = cmd.Process.Protect(m, trap.Read|trap.Write)
		} else {
			w.Close()
			// The callback gives the permission back itself.
			w, err = cmd.Process.Watch(m, trap.Write, func(*trap.Context) trap.Action {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				return trap.Retry
			})
		}
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "1102 1\n-1 1\n1\n")
}

func TestWatchAnswers(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "answers")
	var w *xv.Watch
	n := 0
	asked(cmd, func(op uint64, m xv.Memory) {
		if op == opStop {
			w.Close()
			return
		}
		var err error
		w, err = cmd.Process.Watch(m, trap.Write, func(c *trap.Context) trap.Action {
			n++
			switch n {
			case 1:
				return trap.Skip
			case 2:
				c.RAX = 77
				return trap.Proceed
			case 3:
				return trap.Deliver
			}
			if v, err := c.Uint64(m.Addr); v != 77 || err != nil { // the watch does not keep the host out
				t.Errorf("%d, %v", v, err)
			}
			if err := c.SetUint64(m.Addr, 78); err != nil {
				t.Error(err)
			}
			return trap.Skip
		})
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "0\n0\n1102\n0\n78\n")
}

func TestWatchStepping(t *testing.T) {
	t.Parallel()
	got := watched(t, "stepping", trap.Read|trap.Write, "6\n6\n")
	if want := []string{"write 0", "write 8", "read 0"}; !slices.Equal(got, want) && !slices.Equal(got, []string{"write 0", "read 8", "write 8", "read 0"}) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "paging")
	var base uint64
	var mu sync.Mutex
	filled := map[string]int{}
	asked(cmd, func(op uint64, m xv.Memory) {
		base = m.Addr
		_, err := cmd.Process.Page(m, func(pid int, page uint64, b []byte) error {
			i := (page - base) / pageSize
			binary.LittleEndian.PutUint64(b[8*i:], i)
			copy(b[pageSize-8:], "filled")
			mu.Lock()
			defer mu.Unlock()
			filled[fmt.Sprint(pid == cmd.Process.Pid, i)]++
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	total := 63 * 64 / 2
	run(t, cmd, out, fmt.Sprintf("\x00\x00\x00\x00\x00child %d\n%s1 0\n", total, strings.Repeat(fmt.Sprintln(total), 4)))
	if len(filled) != 64+63 { // page 63 was filled before the fork
		t.Errorf("%d pages were filled", len(filled))
	}
	for name, n := range filled {
		if n != 1 {
			t.Errorf("%s was filled %d times", name, n)
		}
	}
}

// Each page of code begins with the end of an instruction.
func TestPageCode(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "code")
	filled := 0
	asked(cmd, func(op uint64, m xv.Memory) {
		_, err := cmd.Process.Page(m, func(pid int, page uint64, b []byte) error {
			filled++
			i := (page - m.Addr) / pageSize
			copy(b, "\x00\x00\x00\xc3")                           // the end of mov $imm,%eax; ret
			copy(b[pageSize-3:], []byte{0x90, 0xb8, byte(i + 1)}) // nop; mov
			if d, err := cmd.Process.TrackDirty(m); err != nil || d.Close() != nil {
				t.Errorf("a tool in fill: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "4321\n")
	if filled != 5 {
		t.Errorf("%d pages were filled", filled)
	}
}

// A tool that does not start leaves no trace: the next one goes by the guest's protections of now.
func TestToolFailed(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "failed")
	asked(cmd, func(op uint64, m xv.Memory) {
		if _, err := cmd.Process.TrackDirty(m); (op == opStart) != (err != nil) {
			t.Errorf("operation %d: %v", op, err)
		}
	})
	run(t, cmd, out, "1102\n")
}

func TestPageError(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "bad")
	var calls atomic.Int32
	asked(cmd, func(op uint64, m xv.Memory) {
		if _, err := cmd.Process.Page(m, func(int, uint64, []byte) error { calls.Add(1); return errors.New("no such page") }); err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "702 1\n-1 1\n")
	if calls.Load() != 2 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestTrackDirty(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "dirty")
	var base uint64
	var d *xv.DirtyTracker
	var got [][]uint64
	asked(cmd, func(op uint64, m xv.Memory) {
		var err error
		switch op {
		case opStart:
			base = m.Addr
			d, err = cmd.Process.TrackDirty(m)
		case opStop:
			_, err = cmd.Process.TrackDirty(m)
		case opNext:
			var pages []uint64
			pages, err = d.Pages()
			for i := range pages {
				pages[i] = (pages[i] - base) / pageSize
			}
			got = append(got, pages)
		}
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "2 1 abc\n")
	want := [][]uint64{{3, 5}, {5, 7}, nil, nil, {0}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("written %v, want %v", got, want)
	}
}

// outside starts a guest that prints a line first, which begins with the address of memory.
func outside(t *testing.T, mode string) (cmd *xv.Cmd, in io.WriteCloser, out *bufio.Reader, line []string, addr uint64) {
	t.Helper()
	cmd, _ = guest(t, "c/paged.c", mode)
	cmd.Stdout = nil
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewReader(pipe)
	text, _ := out.ReadString('\n')
	line = strings.Fields(text + " none")
	if addr, err = strconv.ParseUint(line[0], 0, 64); err != nil {
		t.Fatal(err)
	}
	return cmd, in, out, line, addr
}

// A tool that the host starts while the guest runs, by no callback.
func TestWatchFromOutside(t *testing.T) {
	t.Parallel()
	cmd, _, pipe, _, addr := outside(t, "outside")
	var told atomic.Int32
	m := xv.Memory{Addr: addr, Len: 1}
	w, err := cmd.Process.Watch(m, trap.Write, func(c *trap.Context) trap.Action {
		if told.Add(1) == 100 {
			if err := c.SetUint8(addr+8, 1); err != nil {
				t.Error(err)
			}
		}
		return trap.Proceed
	})
	if err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(pipe)
	if err := cmd.Wait(); err != nil || string(rest) != "seen\n" {
		t.Errorf("%v, %q", err, rest)
	}
	if err := w.Close(); err != nil {
		t.Errorf("Close after the end: %v", err)
	}
	if _, err := cmd.Process.TrackDirty(m); err == nil {
		t.Error("a tool after the end")
	}
}

// A child whose parent gets a tool while it is made has its memory without.
func TestWatchWhileForking(t *testing.T) {
	t.Parallel()
	cmd, _, pipe, _, addr := outside(t, "forking")
	m := xv.Memory{Addr: addr, Len: 4 * pageSize}
	started := 0
	for {
		w, err := cmd.Process.Watch(m, trap.Read|trap.Write, func(*trap.Context) trap.Action { return trap.Proceed })
		if errors.Is(err, os.ErrProcessDone) {
			break
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		started++
	}
	rest, _ := io.ReadAll(pipe)
	if err := cmd.Wait(); err != nil || string(rest) != "0\n" {
		t.Errorf("%v, %q children with bad memory, %d tools", err, rest, started)
	}
}

// fill may use page tools also when it is called for a fork.
func TestPageWhileForking(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "newborn")
	asked(cmd, func(op uint64, m xv.Memory) {
		_, err := cmd.Process.Page(m, func(pid int, page uint64, b []byte) error {
			d, err := cmd.Process.TrackDirty(m)
			if err == nil {
				err = d.Close()
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "0\n")
}

func TestToolErrors(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/paged.c", "watch")
	asked(cmd, func(op uint64, m xv.Memory) {
		if op != opStart {
			return
		}
		none := func(*trap.Context) trap.Action { return trap.Proceed }
		for name, f := range map[string]func() error{
			"length 0":       func() error { _, err := cmd.Process.Watch(xv.Memory{Addr: m.Addr}, trap.Read, none); return err },
			"null page":      func() error { _, err := cmd.Process.Watch(xv.Memory{Len: 1}, trap.Read, none); return err },
			"memory of xv":   func() error { _, err := cmd.Process.TrackDirty(xv.Memory{Addr: 0x40000000, Len: 1}); return err },
			"kernel":         func() error { _, err := cmd.Process.TrackDirty(xv.Memory{Addr: 1 << 63, Len: 1}); return err },
			"no process":     func() error { _, err := cmd.Process.TrackDirty(xv.Memory{Pid: 1, Addr: m.Addr, Len: 1}); return err },
			"fetches":        func() error { _, err := cmd.Process.Watch(m, trap.Fetch, none); return err },
			"no access":      func() error { _, err := cmd.Process.Watch(m, 0, none); return err },
			"partly missing": func() error { _, err := cmd.Process.TrackDirty(xv.Memory{Addr: m.Addr, Len: 1 << 46}); return err },
		} {
			if f() == nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
	run(t, cmd, out, "6 1122334455667788 tf 0\n")
}
