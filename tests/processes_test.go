package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestKillXvrun kills xvrun with SIGKILL: everything below it must end soon.
func TestKillXvrun(t *testing.T) {
	harness.NeedXvrun(t)
	bash := need.Tool(t, "bash")
	for _, c := range []struct {
		name   string
		argv   []string
		guests int // how many processes to wait for
	}{
		{"sleeping", []string{need.Tool(t, "sleep"), "1000"}, 1},
		{"tree", []string{bash, "-c", "sleep 1000 & (sleep 1000 & sleep 1001) & wait"}, 5},
		{"spinning", []string{bash, "-c", "while :; do :; done"}, 1},
		{"forking", []string{bash, "-c", "while :; do (exit 0); done"}, 1},
		{"new-session", []string{bash, "-c", "setsid sleep 1000 & setsid bash -c 'sleep 1000; :' & wait"}, 4},
		{"orphan", []string{bash, "-c", "(sleep 1000 &); sleep 1000; :"}, 3},
		{"signals-ignored", []string{bash, "-c", "trap '' HUP INT TERM QUIT; sleep 1000; :"}, 2},
		{"stopped", []string{bash, "-c", "sleep 1000 & kill -STOP $!; wait"}, 2},
		{"threads", []string{harness.Guest(t, "c/stay.c", harness.PIE, "-O2"), "threads"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := harness.Start(t, harness.Command(t, c.argv[0], c.argv[1:]...))
			r.Until("guests", 20*time.Second, func() bool { return len(r.Guests()) >= c.guests })
			time.Sleep(50 * time.Millisecond)
			syscall.Kill(r.Pid(), syscall.SIGKILL)
			if ws := r.Wait(20 * time.Second); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
				t.Errorf("xvrun: %s", harness.StatusString(ws))
			}
			r.Gone(20 * time.Second)
		})
	}
}

// TestOutlive has processes that live on after the program has ended. xvrun returns with the program's
// status, a supervisor serves them to their end, and they die with it.
func TestOutlive(t *testing.T) {
	sh, bash := need.Tool(t, "sh"), need.Tool(t, "bash")
	const wait = "while [ ! -e go ]; do sleep 0.02; done; echo done > done"
	const quiet = " > /dev/null 2>&1 & "
	for _, c := range []struct {
		name string
		argv []string
	}{
		{"orphan", []string{sh, "-c", "(" + wait + ")" + quiet + "exit 3"}},
		{"grandchild", []string{sh, "-c", "(sleep 0.05; (" + wait + ")" + quiet + "exit 0)" + quiet + "exit 3"}},
		{"nohup", []string{bash, "-c", "nohup bash -c '" + wait + "'" + quiet + "disown; exit 3"}},
		// The process that lives on has looked for its program in vain before.
		{"failed-exec", []string{sh, "-c", "(PATH=/none:/nowhere:$PATH nohup sh -c 'echo > begun; " + wait + "')" + quiet + "while [ ! -e begun ]; do sleep 0.02; done; exit 3"}},
		{"session", []string{sh, "-c", "setsid sh -c '" + wait + "' < /dev/null" + quiet + "exit 3"}},
		{"ignored-hangup", []string{bash, "-c", "trap '' HUP; set -m; (" + wait + ")" + quiet + "exit 3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := harness.Start(t, harness.Command(t, c.argv[0], c.argv[1:]...))
			if ws := r.Wait(20 * time.Second); !ws.Exited() || ws.ExitStatus() != 3 {
				t.Errorf("%s, want exit status 3", harness.StatusString(ws))
			}
			if len(r.Guests()) == 0 {
				t.Error("nobody lives on")
			}
			if err := os.WriteFile(filepath.Join(r.Dir, "go"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			r.Gone(20 * time.Second)
			if data, err := os.ReadFile(filepath.Join(r.Dir, "done")); string(data) != "done\n" {
				t.Errorf("file of the process that lives on: %q, %v", data, err)
			}
		})
	}
	t.Run("output", func(t *testing.T) {
		t.Parallel()
		// Who waits for the end of the output doesn't wait for a daemon that has closed it.
		command := `x=$("$@"); echo got $x`
		daemon := "sleep 1000 < /dev/null > /dev/null 2>&1 & echo $!"
		r := harness.Start(t, append([]string{bash, "-c", command, "bash"}, harness.Command(t, sh, "-c", daemon)...))
		r.Wait(20 * time.Second)
		if out := string(r.Stdout.Bytes()); !strings.HasPrefix(out, "got ") || len(r.Guests()) != 1 {
			t.Errorf("%d guests, stdout %q", len(r.Guests()), out)
		}
	})
	t.Run("killed-supervisor", func(t *testing.T) {
		harness.NeedXvrun(t)
		t.Parallel()
		r := harness.Start(t, harness.Command(t, sh, "-c", "(sleep 1000; :) < /dev/null > /dev/null 2>&1 & exit 0"))
		r.Wait(20 * time.Second)
		for _, pid := range r.Processes() {
			if harness.IsXvrun(pid) {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		r.Gone(20 * time.Second)
	})
}

// TestKillGuest ends the guest by a signal from outside: xvrun dies the same way.
func TestKillGuest(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSEGV, syscall.SIGINT, syscall.SIGUSR1} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			r := harness.Start(t, harness.Command(t, harness.Guest(t, "c/stay.c", harness.PIE, "-O2"), "sleep"))
			r.WaitOutput("ready", 20*time.Second)
			guests := r.Guests()
			if len(guests) != 1 {
				t.Fatalf("%d guests", len(guests))
			}
			syscall.Kill(guests[0], sig)
			if ws := r.Wait(20 * time.Second); !ws.Signaled() || ws.Signal() != sig {
				t.Errorf("%s, want signal %d", harness.StatusString(ws), int(sig))
			}
			r.Gone(20 * time.Second)
		})
	}
}

// TestForwardSignal signals xvrun: the guest gets it.
func TestForwardSignal(t *testing.T) {
	bash := need.Tool(t, "bash")
	for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP,
		"QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := harness.Start(t, harness.Command(t, bash, "-c", "trap 'echo caught; exit 3' "+name+"; echo ready; while :; do sleep 0.05; done"))
			r.WaitOutput("ready", 20*time.Second)
			syscall.Kill(r.Pid(), sig)
			if ws := r.Wait(20 * time.Second); !ws.Exited() || ws.ExitStatus() != 3 {
				t.Errorf("%s, want exit status 3", harness.StatusString(ws))
			}
			if !strings.Contains(string(r.Stdout.Bytes()), "caught") {
				t.Errorf("stdout: %s", r.Stdout.Bytes())
			}
			r.Gone(20 * time.Second)
		})
	}
}

// TestStopAndContinue stops xvrun with SIGTSTP, as a shell's Ctrl-Z does.
func TestStopAndContinue(t *testing.T) {
	t.Parallel()
	r := harness.Start(t, harness.Command(t, harness.Guest(t, "c/stay.c", harness.PIE, "-O2"), "count"))
	r.WaitOutput("ready", 20*time.Second)
	// SIGSTOP, because the kernel discards SIGTSTP for a session without a terminal.
	for _, pid := range r.Guests() {
		syscall.Kill(pid, syscall.SIGSTOP)
	}
	r.Until("stop", 10*time.Second, func() bool {
		for _, pid := range r.Guests() {
			if st, ok := harness.ReadStat(pid); !ok || st.State != 'T' {
				return false
			}
		}
		return true
	})
	before := len(r.Stdout.Bytes())
	time.Sleep(200 * time.Millisecond)
	if after := len(r.Stdout.Bytes()); after > before+100 {
		t.Errorf("a stopped guest wrote %d bytes", after-before)
	}
	for _, pid := range r.Processes() {
		syscall.Kill(pid, syscall.SIGCONT)
	}
	if ws := r.Wait(20 * time.Second); !ws.Exited() || ws.ExitStatus() != 0 {
		t.Errorf("%s", harness.StatusString(ws))
	}
}

// TestBrokenPipe closes the reader of a guest's output.
func TestBrokenPipe(t *testing.T) {
	bash, yes := need.Tool(t, "bash"), need.Tool(t, "yes")
	t.Parallel()
	argv := harness.Command(t, yes)
	for i, arg := range argv {
		argv[i] = "'" + arg + "'"
	}
	// The shell is native here, xvrun a part of its pipeline.
	res := harness.RunArgv(t, []string{bash, "-c", strings.Join(argv, " ") + " | head -2; echo ${PIPESTATUS[0]}"}, harness.Spec{})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	if got := string(res.Stdout); got != "y\ny\n141\n" {
		t.Errorf("stdout %q, stderr %q", got, res.Stderr)
	}
}

// TestClosedDescriptors starts guests without standard input, output or error.
func TestClosedDescriptors(t *testing.T) {
	sh := need.Tool(t, "sh")
	for name, redirect := range map[string]string{
		"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-",
		"null": "< /dev/null > /dev/null 2>&1", "files": "< in > out 2> err", "append": "< in >> out 2>&1", "more": "5< in 7> out",
		"both": "<>/dev/null 2>&-", "order": "<&- 5</dev/null",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			harness.Compare(t, harness.Case{Spec: harness.Spec{
				Argv:  []string{harness.Guest(t, "c/descriptors.c", harness.PIE)},
				Files: []harness.File{{Name: "in", Data: "some input\n"}},
				Wrap:  []string{sh, "-c", `exec "$@" ` + redirect, "sh"},
			}})
		})
	}
}

// TestUser runs a part of the tests as an ordinary user.
func TestUser(t *testing.T) {
	user := harness.OrdinaryUser()
	for _, g := range basicGuests {
		if stem(g.src) == "exit" {
			continue
		}
		t.Run(stem(g.src), func(t *testing.T) {
			t.Parallel()
			kind := harness.PIE
			if len(g.kinds) > 0 {
				kind = g.kinds[0]
			}
			r := run{}
			if len(g.runs) > 0 {
				r = g.runs[0]
			}
			harness.Compare(t, harness.Case{Spec: harness.Spec{
				Argv: append([]string{harness.Guest(t, g.src, kind, g.flags...)}, r.args...),
				Env:  r.env,
				User: user,
			}, Exit: r.exit, Signal: r.signal})
		})
	}
	for _, p := range []program{
		{name: "id", tool: "id"},
		{name: "sh", tool: "sh", args: []string{"-c", "echo $$ >/dev/null; ls /root 2>/dev/null; seq 100 | sort -n | tail -1; cat /proc/self/comm; readlink /proc/self/exe; kill -9 1; exit 4"}, exit: 4},
		{name: "find", tool: "find", args: []string{argTree + "/d3", "-type", "d"}},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			harness.Compare(t, harness.Case{Spec: harness.Spec{
				Argv: append([]string{need.Tool(t, p.tool)}, fixtures(t, p.args)...),
				User: user,
			}, Exit: p.exit})
		})
	}
}
