//go:build linux && amd64

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/tests/need"
)

// looper tells when it is ready, and how signals reach it.
const looper = `for s in INT TERM HUP USR1 QUIT; do trap "echo got $s; exit 5" $s; done
echo ready
while :; do sleep 0.02; done`

// TestForwarded sends signals to xvrun alone; the program must get them.
func TestForwarded(t *testing.T) {
	// A shell can't trap what it was started with ignored, as the tests are by nohup(1) or in the background of a script.
	ignored := []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT}
	signal.Notify(make(chan os.Signal, 1), ignored...)
	defer signal.Reset(ignored...)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGINT, syscall.SIGQUIT} {
		var out transcript
		cmd := exec.Command(xvrun, "sh", "-c", looper)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.await(t, "ready")
		cmd.Process.Signal(sig)
		cmd.Wait()
		if cmd.ProcessState.ExitCode() != 5 || !strings.Contains(out.String(), "got ") {
			t.Errorf("%v: %v, %q", sig, cmd.ProcessState, &out)
		}
	}
	// Without a handler the program dies, and xvrun dies likewise.
	cmd := exec.Command(xvrun, "sh", "-c", "echo ready; exec sleep 60")
	var out transcript
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.await(t, "ready")
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGTERM {
		t.Errorf("program killed by SIGTERM: %v", cmd.ProcessState)
	}
}

// TestForwardedAtStart sends a signal to xvrun alone while the program starts: it ends that, or xvrun before.
func TestForwardedAtStart(t *testing.T) {
	for delay := time.Duration(0); delay < 70*time.Millisecond; delay += 7 * time.Millisecond {
		cmd := exec.Command(xvrun, "sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		cmd.Process.Signal(syscall.SIGTERM)
		limit := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		limit.Stop()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGTERM {
			t.Errorf("SIGTERM after %v: %v", delay, cmd.ProcessState)
		}
	}
}

// TestBrokenReport has xvrun write its report into a pipe that nobody reads.
func TestBrokenReport(t *testing.T) {
	rd, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wr.Close()
	rd.Close()
	cmd := exec.Command(xvrun, "-stats", "-v", "sh", "-c", "exit 3")
	cmd.Stderr = wr
	if cmd.Run(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("%v, want exit status 3", cmd.ProcessState)
	}
}

// TestStop stops the program alone; xvrun must stop with it, and a SIGCONT for
// xvrun must continue both.
func TestStop(t *testing.T) {
	var out transcript
	cmd := exec.Command(xvrun, "sh", "-c", `echo "pid $$"; kill -STOP $$; echo continued; exit 4`)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &ws, syscall.WUNTRACED, nil); err != nil || !ws.Stopped() || ws.StopSignal() != syscall.SIGSTOP {
		t.Fatalf("xvrun did not stop: %#x, %v", ws, err)
	}
	if strings.Contains(out.String(), "continued") {
		t.Error("program went on")
	}
	cmd.Process.Signal(syscall.SIGCONT)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 4 || !strings.Contains(out.String(), "continued") {
		t.Errorf("%v, %q", cmd.ProcessState, &out)
	}
}

// TestTerminal has xvrun on a terminal of its own.
func TestTerminal(t *testing.T) {
	tty := openTerminal(t, xvrun, "sh", "-c", looper)
	tty.out.await(t, "ready")
	tty.write("\x03")
	if st := tty.wait(t); st.ExitCode() != 5 || strings.Count(tty.out.String(), "got INT") != 1 {
		t.Errorf("interrupt key: %v, %q", st, &tty.out)
	}

	tty = openTerminal(t, xvrun, "sh", "-c", looper)
	tty.out.await(t, "ready")
	tty.cmd.Process.Signal(syscall.SIGINT)
	if st := tty.wait(t); st.ExitCode() != 5 {
		t.Errorf("interrupt sent to xvrun: %v, %q", st, &tty.out)
	}
}

// TestJobControl has an interactive shell stop and continue xvrun, once as
// the native parent of xvrun and once as the program under it.
func TestJobControl(t *testing.T) {
	need.Tool(t, "bash")
	const job = `sh -c 'echo rea""dy; read line; echo "read" $line'` + "\n"
	for _, c := range []struct {
		name string
		argv []string
		job  string
	}{
		{"outside", []string{"bash"}, xvrun + " " + job},
		{"inside", []string{xvrun, "bash"}, job},
	} {
		t.Run(c.name, func(t *testing.T) {
			tty := openTerminal(t, append(c.argv, "--norc", "--noprofile", "-i")...)
			tty.write("PS1='$ '\n" + c.job)
			tty.out.await(t, "ready")
			tty.write("\x1a")
			tty.out.await(t, "Stopped")
			tty.write("jobs; fg\n")
			tty.write("text\n")
			tty.out.await(t, "read text")
			tty.write("echo status $?.\n")
			tty.out.await(t, "status 0.")

			before := strings.Count(tty.out.String(), "ready\r\n")
			tty.write(c.job)
			for range 1000 {
				if strings.Count(tty.out.String(), "ready\r\n") > before {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			tty.write("\x03") // which discards input that was not read yet, now or when the shell gets to it
			for try := 0; try < 10 && !strings.Contains(tty.out.String(), "status 130."); try++ {
				time.Sleep(time.Duration(try+1) * 100 * time.Millisecond)
				tty.write("echo status $?.\n")
			}
			tty.out.await(t, "status 130.")
			tty.write("exit 9\n")
			if st := tty.wait(t); st.ExitCode() != 9 {
				t.Errorf("shell: %v\n%s", st, &tty.out)
			}
		})
	}
}

// TestWindowSize checks that the program is told of a new window size.
func TestWindowSize(t *testing.T) {
	tty := openTerminal(t, xvrun, "bash", "-c", `trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done`)
	tty.out.await(t, "ready")
	if err := unix.IoctlSetWinsize(int(tty.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	if st := tty.wait(t); st.ExitCode() != 3 || !strings.Contains(tty.out.String(), "33 77") {
		t.Errorf("%v, %q", st, &tty.out)
	}
}

// TestKilled kills xvrun; the program must not survive it.
func TestKilled(t *testing.T) {
	var out transcript
	cmd := exec.Command(xvrun, "sh", "-c", `echo "pid $$."; while :; do sleep 0.02; done`)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.await(t, ".\n")
	var pid int
	if _, err := fmt.Sscanf(out.String(), "pid %d.", &pid); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Process.Wait()
	for range 500 {
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d of the guest is alive after its xvrun was killed", pid)
	syscall.Kill(pid, syscall.SIGKILL)
}

// TestKilledAtStart kills xvrun about when its program makes the first process of its own; nothing of the guest may survive.
func TestKilledAtStart(t *testing.T) {
	mark := fmt.Sprintf("XV_TEST_MARK=%d", os.Getpid())
	for delay := time.Duration(0); delay < 2*time.Millisecond; delay += 50 * time.Microsecond {
		cmd := exec.Command(xvrun, "sh", "-c", "echo; while :; do sleep 0.001; done")
		cmd.Env = append(os.Environ(), mark)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 1))
		time.Sleep(delay)
		cmd.Process.Kill()
		cmd.Wait()
	}
	left := having(mark)
	for try := 0; len(left) > 0 && try < 100; try++ {
		time.Sleep(100 * time.Millisecond)
		left = having(mark)
	}
	for _, pid := range left {
		t.Errorf("process %d of a guest is alive after its xvrun was killed", pid)
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// having returns the processes that have a string in their environment.
func having(mark string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if pid, bad := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && bad == nil && bytes.Contains(text, []byte(mark)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestBackground checks that what outlives the program is served, and that
// xvrun doesn't wait for it.
func TestBackground(t *testing.T) {
	out, err := exec.Command(xvrun, "sh", "-c", "(sleep 0.2; echo later) & echo now; exit 6").Output()
	if string(out) != "now\nlater\n" || err == nil || err.Error() != "exit status 6" {
		t.Errorf("%q, %v", out, err)
	}
	out, err = exec.Command(xvrun, "sh", "-c", "sleep 60 > /dev/null 2>&1 & echo $!").Output()
	var pid int
	if _, scanned := fmt.Sscan(string(out), &pid); scanned != nil || err != nil {
		t.Fatalf("%q, %v", out, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the background job %d: %v", pid, err)
	}
}

// transcript collects output and waits for parts of it.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *transcript) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *transcript) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func (r *transcript) await(t *testing.T, want string) {
	t.Helper()
	for range 2000 {
		if strings.Contains(r.String(), want) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("no %q in %q", want, r)
}

// terminal is a process that leads a session on a new terminal.
type terminal struct {
	master *os.File
	cmd    *exec.Cmd
	out    transcript
	copied chan struct{}
}

func openTerminal(t *testing.T, argv ...string) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		need.Missing(t, "a terminal: "+err.Error())
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		need.Missing(t, "a terminal: "+err.Error())
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		need.Missing(t, "a terminal: "+err.Error())
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		need.Missing(t, "a terminal: "+err.Error())
	}
	defer slave.Close()
	tty := &terminal{master: os.NewFile(uintptr(fd), "ptmx"), cmd: exec.Command(argv[0], argv[1:]...), copied: make(chan struct{})}
	tty.cmd.Stdin, tty.cmd.Stdout, tty.cmd.Stderr = slave, slave, slave
	tty.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := tty.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		io.Copy(&tty.out, tty.master) // ends with EIO when the last user of the terminal is gone
		close(tty.copied)
	}()
	t.Cleanup(func() {
		tty.cmd.Process.Kill()
		tty.cmd.Wait()
		tty.master.Close()
	})
	return tty
}

func (tty *terminal) write(s string) { tty.master.WriteString(s) }

func (tty *terminal) wait(t *testing.T) *os.ProcessState {
	t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { tty.cmd.Process.Kill() })
	defer timer.Stop()
	tty.cmd.Wait()
	<-tty.copied
	return tty.cmd.ProcessState
}

// TestSignalsAtStart sends signals to xvrun's process group while the program is started: it is stopped and goes on, or
// ends by the signal, but xvrun doesn't wait for ever.
func TestSignalsAtStart(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTERM, syscall.SIGINT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			for delay := time.Duration(0); delay < 16*time.Millisecond; delay += 300 * time.Microsecond {
				cmd := exec.Command(xvrun, "sh", "-c", "exit 7")
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				go func() { cmd.Wait(); close(ended) }()
				time.Sleep(delay)
				syscall.Kill(-cmd.Process.Pid, sig)
				limit := time.Now().Add(20 * time.Second)
				for running := true; running; {
					select {
					case <-ended:
						running = false
					case <-time.After(10 * time.Millisecond):
						syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT)
					}
					if time.Now().After(limit) {
						syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
						<-ended
						t.Fatalf("after %v: xvrun did not end; output %q", delay, &out)
					}
				}
				ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
				if ws.ExitStatus() != 7 && (sig == syscall.SIGTSTP || !ws.Signaled() || ws.Signal() != sig) {
					t.Errorf("after %v: %v, output %q", delay, cmd.ProcessState, &out)
				}
			}
		})
	}
}
