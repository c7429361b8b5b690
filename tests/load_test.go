package tests

import (
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestUnderLoad runs the programs that make threads and code of their own several times in a row while other processes keep
// all processors busy: what they do is the same each time. With -soak it is all of them, ten times.
func TestUnderLoad(t *testing.T) {
	type guest struct {
		name string
		soak bool
		spec harness.Spec
		exit int
	}
	python := harness.Python(t)[0]
	env := []string{"PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1"}
	guests := []guest{
		{name: "luajit", spec: harness.Spec{Argv: []string{need.Tool(t, "luajit"), script("lua", "jit.lua")}}},
		{name: "go", spec: harness.Spec{Argv: []string{harness.Guest(t, "go/runtime.go", harness.Static)}}},
		{name: "python-threads", spec: harness.Spec{Argv: []string{python, script("py", "threads.py")}, Env: env}},
		{name: "node", spec: harness.Spec{Argv: []string{need.Tool(t, "node"), script("js", "script.js")}}, exit: 6},
		{name: "go-pie", soak: true, spec: harness.Spec{Argv: []string{harness.Guest(t, "go/runtime.go", harness.PIE)}}},
		{name: "go-stress", soak: true, spec: harness.Spec{Argv: []string{harness.Guest(t, "go/stress.go", harness.Static)}}},
		{name: "python-basics", soak: true, spec: harness.Spec{Argv: []string{python, script("py", "basics.py"), "x"}, Env: env, Stdin: "input"}, exit: 9},
		{name: "python-processes", soak: true, spec: harness.Spec{Argv: []string{python, script("py", "processes.py")}, Env: env}},
		{name: "python-sqlite", soak: true, spec: harness.Spec{Argv: []string{python, script("py", "sqlite.py")}, Env: env}},
	}
	rounds := 2
	if *harness.Soak {
		rounds = 10
	}
	keepBusy(t)
	for _, g := range guests {
		t.Run(g.name, func(t *testing.T) {
			if g.soak {
				harness.NeedSoak(t)
			}
			g.spec.Timeout = 5 * time.Minute
			for range rounds {
				harness.Compare(t, harness.Case{Spec: g.spec, Exit: g.exit})
			}
		})
	}
}

// keepBusy lets each processor have something to do until the test ends.
func keepBusy(t *testing.T) {
	t.Helper()
	sh := need.Tool(t, "sh")
	runtime.LockOSThread() // the end of the thread that forked is the parent's death for the kernel
	t.Cleanup(runtime.UnlockOSThread)
	for range runtime.NumCPU() {
		cmd := exec.Command(sh, "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
}
