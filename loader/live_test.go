//go:build linux && amd64

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// TestLive carries a plan out on real processes: each is stopped at its exec,
// its images are moved by remote system calls, and it must then run as if
// nothing had happened. The code stays executable here, since nobody
// translates it.
func TestLive(t *testing.T) {
	programs := [][]string{{"/bin/true"}, {"/bin/cat", "/proc/self/maps"}, {"/bin/sh", "-c", "exit 0"}}
	programs = append(programs, compile(t)...)
	for _, argv := range programs {
		t.Run(filepath.Base(argv[0]), func(t *testing.T) {
			runtime.LockOSThread() // ptrace requests must come from the tracer's thread
			defer runtime.UnlockOSThread()
			info, err := Check(argv[0])
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
			if err := cmd.Start(); err != nil {
				t.Fatalf("ptrace: %v", err)
			}
			done := false
			defer func() {
				if !done {
					cmd.Process.Kill()
					cmd.Wait()
				}
			}()
			tr := &tracee{t: t, pid: cmd.Process.Pid}
			tr.wait()
			l := tr.relocate(info)
			if err := syscall.PtraceDetach(tr.pid); err != nil {
				t.Fatal(err)
			}
			done = true
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v after the move\n%s", err, &out)
			}
			if argv[0] == "/bin/cat" {
				maps, err := ParseMaps(out.Bytes())
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range l.Moves {
					found := false
					for _, v := range maps {
						found = found || v.Contains(m.NewStart)
					}
					if !found {
						t.Errorf("nothing is mapped at %#x", m.NewStart)
					}
				}
			}
		})
	}
}

// compile builds one program of each linkage, where a compiler is installed.
func compile(t *testing.T) (programs [][]string) {
	dir := t.TempDir()
	src := filepath.Join(dir, "p.c")
	const code = `#include <stdio.h>
#include <time.h>
#include <stdlib.h>
int main(int argc, char **argv) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now); /* through the moved vdso */
	printf("%s %s\n", argv[0], getenv("PATH"));
	return now.tv_sec == 0;
}
`
	if err := os.WriteFile(src, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{"gcc", "pie", "-pie", "-fPIE"}, {"gcc", "non-pie", "-no-pie"}, {"gcc", "static", "-static"}, {"gcc", "static-pie", "-static-pie", "-fPIE"},
		{"gcc", "aligned", "-pie", "-fPIE", "-Wl,-z,max-page-size=0x200000"},
		{"musl-gcc", "musl"}, {"musl-gcc", "musl-static", "-static"},
	} {
		out := filepath.Join(dir, c[1])
		if text, err := exec.Command(c[0], append([]string{"-o", out, src}, c[2:]...)...).CombinedOutput(); err != nil {
			t.Logf("%s: %v\n%s", c[1], err, text)
			continue
		}
		programs = append(programs, []string{out})
	}
	return programs
}

// tracee is a process stopped under ptrace.
type tracee struct {
	t   *testing.T
	pid int
}

func (tr *tracee) wait() {
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(tr.pid, &ws, 0, nil); err != nil || !ws.Stopped() {
		tr.t.Fatalf("wait: %#x, %v", ws, err)
	}
}

// relocate plans and moves the images of the process.
func (tr *tracee) relocate(info *Info) *Layout {
	t := tr.t
	t.Helper()
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tr.pid, &regs); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", tr.pid))
	if err != nil {
		t.Fatal(err)
	}
	maps, err := ParseMaps(text)
	if err != nil {
		t.Fatal(err)
	}
	stack := tr.stack(regs.Rsp, maps)
	l, err := Plan(maps, stack.Aux, bump(0x1000_0000))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	checkLayout(t, l, maps)
	tr.compare(info, l, stack)

	at := regs.Rip
	saved := tr.peek(at, 8)
	scratch := tr.syscall(at, syscall.SYS_MMAP, 0, pageSize, ProtRead|ProtWrite|ProtExec, syscall.MAP_PRIVATE|syscall.MAP_ANON, ^uint64(0), 0)
	tr.poke(at, saved)
	for _, m := range l.Moves {
		if m.Stays() {
			continue
		}
		const mayMoveFixed = 1 | 2
		size := m.OldEnd - m.OldStart
		if got := tr.syscall(scratch, syscall.SYS_MREMAP, m.OldStart, size, size, mayMoveFixed, m.NewStart, 0); got != m.NewStart {
			t.Fatalf("mremap of %#x-%#x gives %d", m.OldStart, m.OldEnd, int64(got))
		}
	}
	for _, p := range l.Patches {
		tr.poke(regs.Rsp+stack.At(p), binary.LittleEndian.AppendUint64(nil, p.Value))
	}
	entry, ok := l.Translate(regs.Rip)
	if !ok {
		t.Fatalf("start address %#x is in no image", regs.Rip)
	}
	regs.Rip = entry
	if err := syscall.PtraceSetRegs(tr.pid, &regs); err != nil {
		t.Fatal(err)
	}
	return l
}

// stack reads and parses the initial stack, and compares it with what the
// kernel says in /proc.
func (tr *tracee) stack(rsp uint64, maps []VMA) *StackView {
	t := tr.t
	t.Helper()
	for _, v := range maps {
		if !v.Contains(rsp) {
			continue
		}
		stack, err := ParseStack(tr.peek(rsp, int(v.End-rsp)))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", tr.pid))
		if err != nil {
			t.Fatal(err)
		}
		aux, err := ParseAuxv(raw)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(aux) != fmt.Sprint(stack.Aux) {
			t.Errorf("auxiliary vector on the stack %v\nin /proc %v", stack.Aux, aux)
		}
		return stack
	}
	t.Fatalf("stack pointer %#x is not mapped", rsp)
	return nil
}

// compare checks what the file says against what the kernel did with it.
func (tr *tracee) compare(info *Info, l *Layout, stack *StackView) {
	t := tr.t
	t.Helper()
	base, _ := lookup(stack.Aux, AtBase)
	if (info.Interp == "") != (base == 0) {
		t.Errorf("interpreter %q, AT_BASE %#x", info.Interp, base)
	}
	for _, img := range l.Images {
		if img.Kind != Program {
			continue
		}
		bias := img.Low - info.Low
		if img.High-img.Low != info.High-info.Low || info.Type == Exec && bias != 0 {
			t.Errorf("file spans %#x-%#x, process %#x-%#x", info.Low, info.High, img.Low, img.High)
		}
		if entry, _ := lookup(stack.Aux, AtEntry); entry != info.Entry+bias {
			t.Errorf("AT_ENTRY %#x, want %#x", entry, info.Entry+bias)
		}
		if (img.NewLow-info.Low)%min(info.Align, placement) != 0 {
			t.Errorf("image at %#x, alignment %#x", img.NewLow, info.Align)
		}
	}
}

// syscall makes the process execute a system call from code at an address.
func (tr *tracee) syscall(at uint64, nr, a1, a2, a3, a4, a5, a6 uint64) uint64 {
	t := tr.t
	t.Helper()
	var saved syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tr.pid, &saved); err != nil {
		t.Fatal(err)
	}
	tr.poke(at, []byte{0x0f, 0x05}) // syscall
	regs := saved
	regs.Rip, regs.Rax, regs.Orig_rax = at, nr, ^uint64(0)
	regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9 = a1, a2, a3, a4, a5, a6
	if err := syscall.PtraceSetRegs(tr.pid, &regs); err != nil {
		t.Fatal(err)
	}
	if err := syscall.PtraceSingleStep(tr.pid); err != nil {
		t.Fatal(err)
	}
	tr.wait()
	if err := syscall.PtraceGetRegs(tr.pid, &regs); err != nil {
		t.Fatal(err)
	}
	if err := syscall.PtraceSetRegs(tr.pid, &saved); err != nil {
		t.Fatal(err)
	}
	return regs.Rax
}

func (tr *tracee) peek(addr uint64, n int) []byte {
	tr.t.Helper()
	b := make([]byte, n)
	if _, err := syscall.PtracePeekData(tr.pid, uintptr(addr), b); err != nil {
		tr.t.Fatal(err)
	}
	return b
}

func (tr *tracee) poke(addr uint64, b []byte) {
	tr.t.Helper()
	if _, err := syscall.PtracePokeData(tr.pid, uintptr(addr), b); err != nil {
		tr.t.Fatal(err)
	}
}
