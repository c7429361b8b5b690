//go:build linux && amd64

package host

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv"
	"xvrun/xv/trap"
)

// TestCollectWhileHostWorks fills the cache while a callback of the host keeps a thread, which so cannot be halted.
func TestCollectWhileHostWorks(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/collected.c", "fault")
	cmd.Options.CacheSize = 128 << 10
	value := int32(4711)
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGSEGV}}, func(c *trap.Context) trap.Action {
		start := time.Now()
		for before := cmd.Process.Stats().Collections; cmd.Process.Stats().Collections < before+3; time.Sleep(time.Millisecond) {
			if time.Since(start) > limit/2 {
				t.Error("the cache is not collected")
				break
			}
		}
		c.RAX = uint64(value)
		return trap.Skip
	})
	run(t, cmd, out, "ok\n")
}

// TestCollectTraced fills the cache of a process that somebody else traces: it cannot be halted at all.
func TestCollectTraced(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/collected.c", "endless")
	cmd.Options.CacheSize = 128 << 10
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // it is the tracer
		defer runtime.UnlockOSThread()
		ended <- trace(cmd, func() {
			in.Write([]byte(".."))
			in.Close()
		})
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || out.String() != "..ok\n" {
		t.Errorf("%v, output %q", err, out)
	}
	if cmd.Process.Stats().Collections < 3 {
		t.Errorf("%+v", cmd.Process.Stats())
	}
}

// trace traces a process from the calling OS thread until it ends, and lets all signals through. It calls f when it does.
func trace(cmd *xv.Cmd, f func()) error {
	pid := cmd.Process.Pid
	for {
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EPERM { // xv traces it until it has started
			return errno
		}
		time.Sleep(time.Millisecond)
	}
	f()
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		if err == unix.ECHILD { // it was reaped
			return nil
		}
		if err != nil {
			return err
		}
		const trapped = 4 // CLD_TRAPPED
		if info.Code != trapped {
			return nil
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); err != nil {
			return err
		}
		if ws.Stopped() {
			unix.PtraceCont(pid, int(ws.StopSignal()))
		}
	}
}
