//go:build linux && amd64

package host

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"xvrun/loader"
	"xvrun/tests/harness"
	"xvrun/tests/need"
	"xvrun/xv"
	"xvrun/xv/agent/abi"
	"xvrun/xv/reloc"
)

func TestRelocateProgram(t *testing.T) {
	t.Parallel()
	var stop func() int
	busy(t, func(p *xv.Process, m xv.Memory) {
		if stop == nil {
			stop = harness.RelocateOften(t, p, 50*time.Millisecond)
		}
	}, func() {})
	if n := stop(); n == 0 {
		t.Error("nothing was moved")
	}
}

// sleeper answers each line by using what a move must not break: a signal handler, threads that wait meanwhile.
const sleeper = `
import signal, sys, threading
hits, woken, ended = [], [], threading.Event()
signal.signal(signal.SIGUSR1, lambda *a: hits.append(1))
def nap(): ended.wait(); woken.append(1)
threads = [threading.Thread(target=nap) for i in range(3)]
for t in threads: t.start()
print("ready", flush=True)
while sys.stdin.readline() != "end\n":
    signal.raise_signal(signal.SIGUSR1)
    print(len(hits), sum(i * i for i in range(1000)), flush=True)
ended.set()
for t in threads: t.join()
print(len(woken))
`

// TestRelocateLeavesNothing lets a guest work at one place, moves it, and then looks for addresses of the place that was left: in all
// of its memory but stacks, where calls of long ago have left what nobody reads, and in all registers.
func TestRelocateLeavesNothing(t *testing.T) {
	t.Parallel()
	cmd, in, lines := pythonGuest(t, sleeper)
	cmd.Options.CacheSize = 32 << 20
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answer := func(want string) {
		t.Helper()
		if line, err := lines.ReadString('\n'); line != want+"\n" {
			t.Fatalf("%q, %v, want %q", line, err, want)
		}
	}
	answer("ready")
	pid := cmd.Process.Pid
	move := func(base uint64) xv.Relocated {
		t.Helper()
		list, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: pid, Base: base})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || list[0].From == list[0].To || list[0].PID != pid || list[0].Pause <= 0 || base != 0 && list[0].To != base {
			t.Fatalf("%+v", list)
		}
		return list[0]
	}
	for i, base := range []uint64{0x1000_0000, 0x3f12_5000_0000, 0x2400_0000, 0x1000_0000, 0x7000_0000_0000} {
		before := search(t, pid, base) // numbers of the guest's own
		move(base)
		io.WriteString(in, "go\n")
		answer(fmt.Sprintf("%d 332833500", i+1))
		move(0x4000_0000 + uint64(i)<<24)
		for at, v := range search(t, pid, base) {
			if before[at] != v {
				t.Errorf("round %d: %s holds %#x", i, at, v)
			}
		}
	}
	io.WriteString(in, "end\n")
	answer("3")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// search looks for addresses in the registers and the memory of a process: of the agent, the threads' contexts and the code
// cache, if the region begins at base. It returns where they are.
func search(t *testing.T, pid int, base uint64) map[string]uint64 {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]uint64{}
	now, cache := region(t, pid)
	for _, task := range tasks {
		waitOutside(t, fmt.Sprintf("/proc/%d/task/%s/syscall", pid, task.Name()), now)
	}
	var slots []uint64 // offsets in the region
	check := func(v uint64, format string, args ...any) {
		off := v - base
		if off < 0x10000 || off-0x1000_0000 < cache || slices.ContainsFunc(slots, func(slot uint64) bool { return off-slot < 0x10000 }) {
			found[fmt.Sprintf(format, args...)] = v
		}
	}
	var threads []syscall.PtraceRegs
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.PtraceAttach(tid); err != nil {
			t.Fatal(err)
		}
		defer syscall.PtraceDetach(tid)
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(tid, &ws, syscall.WALL, nil); err != nil || !ws.Stopped() {
			t.Fatalf("thread %d: %v, %v", tid, ws, err)
		}
		var r syscall.PtraceRegs
		if err := syscall.PtraceGetRegs(tid, &r); err != nil {
			t.Fatal(err)
		}
		threads = append(threads, r)
		slots = append(slots, r.Gs_base-now)
	}
	for i, r := range threads {
		for k, v := range []uint64{r.Rax, r.Rbx, r.Rcx, r.Rdx, r.Rsi, r.Rdi, r.Rbp, r.Rsp, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rip, r.Fs_base, r.Gs_base} {
			check(v, "register %d of thread %d", k, i)
		}
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, v := range mappings(t, pid) {
		ours := strings.Contains(v.Path, "/memfd:xv-")
		if ours {
			check(v.Start, "a mapping of %s", v.Path)
		}
		isStack := slices.ContainsFunc(threads, func(r syscall.PtraceRegs) bool { return v.Contains(r.Rsp) })
		if v.Prot&loader.ProtRead == 0 || isStack || ours || strings.HasPrefix(v.Path, "[v") {
			continue
		}
		searchAt(mem, v.Start, v.Len(), "memory", check)
	}
	for _, slot := range slots {
		searchAt(mem, now+slot, 0x10000, "the context", check)
	}
	return found
}

// waitOutside waits until a thread waits in a system call of the guest's own: with the guest's stack pointer, by which its stack is
// known, and no longer with that of the agent, whose region begins at base. The file is proc_pid_syscall(5).
func waitOutside(t *testing.T, file string, base uint64) {
	t.Helper()
	for {
		text, err := os.ReadFile(file)
		if err != nil || t.Context().Err() != nil {
			t.Fatal(err, t.Context().Err())
		}
		if fields := strings.Fields(string(text)); len(fields) == 9 { // number, six arguments, stack pointer, rip
			if sp, err := strconv.ParseUint(fields[7], 0, 64); err != nil {
				t.Fatal(err)
			} else if sp-base >= (abi.Home{}).Cache() {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func mappings(t *testing.T, pid int) []loader.VMA {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	maps, err := loader.ParseMaps(text)
	if err != nil {
		t.Fatal(err)
	}
	return maps
}

func searchAt(mem *os.File, at, size uint64, name string, check func(v uint64, format string, args ...any)) {
	b := make([]byte, size)
	n, _ := mem.ReadAt(b, int64(at))
	for off := 0; off+8 <= n; off += 8 {
		check(binary.LittleEndian.Uint64(b[off:]), "%#x of %s", at+uint64(off), name)
	}
}

// region returns where xv's region begins, and the size of the code cache.
func region(t *testing.T, pid int) (start, cache uint64) {
	t.Helper()
	for _, v := range mappings(t, pid) {
		switch {
		case strings.HasPrefix(v.Path, "/memfd:xv-agent") && start == 0:
			start = v.Start
		case strings.HasPrefix(v.Path, "/memfd:xv-cache"):
			cache = v.Len()
		}
	}
	if start == 0 || cache == 0 {
		t.Fatal("xv is not to be found")
	}
	return start, cache
}

// TestRelocateFromCode has a guest place code where a far region is, and code whose lookup would be there: xv leaves before. And xv doesn't move
// to where such code is.
func TestRelocateFromCode(t *testing.T) {
	t.Parallel()
	cmd, _ := guest(t, "c/elsewhere.c")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = nil
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	answer := func(want string) {
		t.Helper()
		if line, err := lines.ReadString('\n'); line != want+"\n" {
			t.Fatalf("%q, %v, want %q", line, err, want)
		}
	}
	answer("ready")
	move := func(base uint64) error {
		_, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: cmd.Process.Pid, Base: base})
		return err
	}
	const calls = 1 << 30 // how much further on calls look for code
	lookedUp := func(at uint64) uint64 { return (at - abi.Table) / abi.EntrySize &^ 0xfff }
	for i, c := range []struct {
		how        string
		base, code uint64
	}{
		{"mmap", 0x2f12_5000_0000, 0x2f12_6000_0000},
		{"mremap", 0x2e12_5000_0000, 0x2e12_5000_0000},
		{"mmap", 0x3f12_5000_0000, lookedUp(0x3f12_6800_0000)},
		{"mmap", 0x3e12_5000_0000, lookedUp(0x3e12_6800_0000) - calls},
		{"mprotect", 0x3d12_5000_0000, lookedUp(0x3d12_6800_0000)},
		{"mprotect", 0x4d12_5000_0000, lookedUp(0x4d12_6800_0000) - calls}, // above abi.FarEnd
		{"mremap", 0x4e12_5000_0000, lookedUp(0x4e12_6800_0000)},
	} {
		if err := move(c.base); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(in, "%s %x\n", c.how, c.code)
		answer("4200")
		if now, _ := region(t, cmd.Process.Pid); now == c.base {
			t.Errorf("%d: the region is still at %#x", i, now)
		}
		if err := move(c.base); err == nil || !strings.Contains(err.Error(), "looked up there") {
			t.Errorf("%d: moved back: %v", i, err)
		}
	}
	in.Close()
	answer("ok")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// full has as many mappings as the kernel allows, until it is told to have fewer, and then runs code that was not yet translated.
const full = `
import ctypes, mmap, sys
mprotect = ctypes.CDLL(None).mprotect
m = mmap.mmap(-1, 1 << 33, flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS|0x4000) # MAP_NORESERVE
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
change = lambda at, size, prot: mprotect(ctypes.c_void_p(at), ctypes.c_size_t(size), prot)
n = 0
while n < 1 << 19 and change(at + 8192 * n, 4096, mmap.PROT_READ) == 0: n += 1
print("full" if n < 1 << 19 else "no limit", flush=True)
sys.stdin.readline()
print(sum(i * i for i in range(1000)), flush=True)
sys.stdin.readline()
change(at, 1 << 33, mmap.PROT_READ | mmap.PROT_WRITE)
print("free", flush=True)
sys.stdin.readline()
print("%.3f" % 0.1415, sorted("cab"))
`

// TestRelocateFullMap moves a program that has as many mappings as the kernel allows, where memory can't be moved: all stays as it is.
func TestRelocateFullMap(t *testing.T) {
	t.Parallel()
	cmd, in, lines := pythonGuest(t, full)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answer := func(want string) {
		t.Helper()
		io.WriteString(in, "go\n")
		if line, err := lines.ReadString('\n'); line != want+"\n" {
			t.Fatalf("%q, %v, want %q", line, err, want)
		}
	}
	move := func() error {
		_, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: cmd.Process.Pid})
		return err
	}
	switch line, err := lines.ReadString('\n'); line {
	case "full\n":
	case "no limit\n":
		need.Missing(t, "a vm.max_map_count below 1<<20")
	default:
		t.Fatalf("%q, %v", line, err)
	}
	before, _ := region(t, cmd.Process.Pid)
	if err := move(); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("moved: %v", err)
	}
	if now, _ := region(t, cmd.Process.Pid); now != before {
		t.Errorf("the region is at %#x, before at %#x", now, before)
	}
	answer("332833500")
	answer("free")
	if err := move(); err != nil {
		t.Error(err)
	}
	answer("0.141 ['a', 'b', 'c']")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestRelocateFar looks where regions are that are to be far.
func TestRelocateFar(t *testing.T) {
	t.Parallel()
	cmd, _ := guest(t, "c/paged.c")
	cmd.Path, cmd.Args = need.Tool(t, "sleep"), []string{"sleep", "60"}
	cmd.Options.FarRegion = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	for _, r := range []xv.Relocation{{}, {Base: 0x2000_0000}, {}, {Far: true}} {
		list, err := cmd.Process.Relocate(t.Context(), r)
		if err != nil || len(list) != 1 || list[0].From == list[0].To {
			t.Fatalf("%+v, %v", list, err)
		}
		if to := list[0].To; to != r.Base && (to < reloc.Far.Lo || to >= reloc.Far.Hi) {
			t.Errorf("%+v: moved to %#x", r, to)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
}

func TestRelocateErrors(t *testing.T) {
	t.Parallel()
	cmd, _ := guest(t, "c/paged.c")
	cmd.Path, cmd.Args = need.Tool(t, "sleep"), []string{"sleep", "60"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	time.Sleep(50 * time.Millisecond)
	for _, c := range []struct {
		base uint64
		want string
	}{
		{0x2000_0001, "no place for a region"},
		{0x1000, "no place for a region"},
		{0x7fff_0000, "no place for a region"},
		{0x4_0000_0000, "no place for a region"},
		{0x7fff_f000_0000, "no place for a region"},
		{1 << 47, "no place for a region"},
		{^uint64(0xfff), "no place for a region"},
		{0x4000_1000, "has memory at"}, // where it is
	} {
		_, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: pid, Base: c.base})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("to %#x: %v", c.base, err)
		}
	}
	if list, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: pid, Base: 0x1000_0000}); err != nil || list[0].To != 0x1000_0000 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := cmd.Process.Relocate(t.Context(), xv.Relocation{PID: 1}); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process that is not the guest's: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := cmd.Process.Relocate(t.Context(), xv.Relocation{}); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("after the end: %v", err)
	}
}
