package tests

import (
	"syscall"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// openShell starts an interactive shell on a terminal, under xvrun.
func openShell(t *testing.T, flags ...string) *harness.Terminal {
	t.Helper()
	bash := need.Tool(t, "bash")
	argv := harness.Command(t, bash, append([]string{"--norc", "--noprofile"}, append(flags, "-i")...)...)
	term := harness.OpenTerminal(t, argv, "PS1=ready> ", "HISTFILE=")
	term.Expect("ready> ")
	return term
}

// ask types a command and waits for its output, which must not be a part of
// the command, for the terminal echoes that; then for the prompt.
func ask(term *harness.Terminal, command, want string) {
	term.Type(command + "\n")
	term.Expect(want)
	term.Expect("ready> ")
}

func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"commands", terminalCommands},
		{"editing", terminalEditing},
		{"interrupt", terminalInterrupt},
		{"quit", terminalQuit},
		{"stop-and-resume", terminalStop},
		{"background", terminalBackground},
		{"window-size", terminalSize},
		{"hangup", terminalHangup},
		{"end-of-file", terminalEOF},
		{"stop-xvrun", terminalStopXvrun},
		{"interrupt-xvrun", terminalInterruptXvrun},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

func terminalCommands(t *testing.T) {
	term := openShell(t, "--noediting")
	ask(term, "echo a$((1+1))b", "a2b")
	ask(term, "tty", "/dev/pts/[0-9]+")
	ask(term, "test -t 0 && test -t 1 && test -t 2 && echo all$((3*3))", "all9")
	ask(term, "ls /dev/null | cat; (exit 3); echo st$?", "st3")
	ask(term, "stty -a | grep -c speed", "1")
	term.Type("read -s x; echo got-${#x}\n")
	time.Sleep(200 * time.Millisecond)
	term.Type("secret\n")
	term.Expect("got-6")
	term.Type("exit 7\n")
	if ws := term.Wait(20 * time.Second); ws.ExitStatus() != 7 {
		t.Errorf("%s, want exit status 7", harness.StatusString(ws))
	}
	term.Gone(20 * time.Second)
}

func terminalEditing(t *testing.T) {
	term := openShell(t)
	// Left twice, then an insertion.
	term.Type("echo abcd\x1b[D\x1b[D_$((2*3))_\n")
	term.Expect("ab_6_cd")
	// History.
	term.Expect("ready> ")
	term.Type("\x10\n")
	term.Expect("ab_6_cd")
}

func terminalInterrupt(t *testing.T) {
	term := openShell(t, "--noediting")
	for range 3 {
		term.Type("echo go$((4+4)); sleep 1000\n")
		term.Expect("go8")
		term.Foreground("sleep")
		term.Type("\x03")
		term.Expect("ready> ")
		ask(term, "echo st$?", "st130")
	}
	// A loop of the shell itself, and a line that is given up.
	term.Type("echo go$((4+4)); while :; do :; done\n")
	term.Expect("go8")
	term.Type("\x03")
	term.Expect("ready> ")
	term.Type("echo half a line\x03")
	term.Expect("ready> ")
	ask(term, "echo a$((1+1))b", "a2b")
	// A program that catches it.
	term.Type("bash -c 'trap \"echo caught-\\$((5+5)); exit 4\" INT; echo go$((4+4)); while :; do sleep 0.05; done'\n")
	term.Expect("go8")
	term.Type("\x03")
	term.Expect("caught-10")
	ask(term, "echo st$?", "st(4|130)")
}

func terminalQuit(t *testing.T) {
	term := openShell(t, "--noediting")
	term.Type("echo go$((4+4)); sleep 1000\n")
	term.Expect("go8")
	term.Foreground("sleep")
	term.Type("\x1c")
	term.Expect("ready> ")
	ask(term, "echo st$?", "st131")
}

func terminalStop(t *testing.T) {
	term := openShell(t, "--noediting")
	term.Type("echo go$((4+4)); sleep 1\n")
	term.Expect("go8")
	term.Foreground("sleep")
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("ready> ")
	ask(term, "jobs", "Stopped.*sleep")
	term.Type("fg; echo back$?\n")
	term.Expect("back0")
	// Stop, go on in the background, wait.
	term.Expect("ready> ")
	term.Type("sleep 1; echo slept$((6*7))\n")
	term.Foreground("sleep")
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("ready> ")
	ask(term, "bg", "sleep 1.*&")
	ask(term, "wait; echo st$?", "st0")
	// A pipeline stops and resumes as a whole.
	term.Type("(for i in 1 2 3 4 5 6 7 8; do echo n$i; sleep 0.1; done) | cat; echo end$((1+1))\n")
	term.Expect("n2")
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("ready> ")
	term.Type("fg\n")
	term.Expect("n8")
}

func terminalBackground(t *testing.T) {
	term := openShell(t, "--noediting")
	// A background job that reads the terminal is stopped.
	term.Type("cat &\n")
	term.Expect("ready> ")
	term.State("cat", 'T')
	ask(term, "jobs", "Stopped.*cat")
	term.Type("fg\n")
	term.Expect("cat")
	term.Foreground("cat")
	term.Type("typed\n")
	term.Expect("typed\r\ntyped")
	term.Type("\x04")
	term.Expect("ready> ")
	ask(term, "sleep 1000 & kill %1; wait; echo st$?", "st")
}

func terminalSize(t *testing.T) {
	term := openShell(t, "--noediting")
	ask(term, "stty size", "24 80")
	term.Resize(40, 132)
	ask(term, "stty size", "40 132")
	// A running program is told.
	term.Type("bash -c 'trap \"stty size; exit 5\" WINCH; echo go$((4+4)); while :; do sleep 0.05; done'\n")
	term.Expect("go8")
	term.Resize(31, 77)
	term.Expect("31 77")
	ask(term, "echo st$?", "st5")
}

func terminalHangup(t *testing.T) {
	term := openShell(t, "--noediting")
	term.Type("sleep 1000 & echo go$((4+4))\n")
	term.Expect("go8")
	term.Close()
	if ws := term.Wait(20 * time.Second); ws.Exited() && ws.ExitStatus() == 125 {
		t.Errorf("%s", harness.StatusString(ws))
	}
	term.Gone(20 * time.Second)
}

func terminalEOF(t *testing.T) {
	term := openShell(t, "--noediting")
	term.Type("false\n")
	term.Expect("ready> ")
	term.Type("\x04")
	if ws := term.Wait(20 * time.Second); ws.ExitStatus() != 1 {
		t.Errorf("%s, want exit status 1", harness.StatusString(ws))
	}
}

// nativeShell starts a native interactive shell, for xvrun as one of its jobs.
func nativeShell(t *testing.T) *harness.Terminal {
	t.Helper()
	term := harness.OpenTerminal(t, []string{need.Tool(t, "bash"), "--norc", "--noprofile", "--noediting", "-i"}, "PS1=ready> ", "HISTFILE=")
	term.Expect("ready> ")
	return term
}

// under is a shell command that runs its arguments under xvrun.
func under(t *testing.T, argv ...string) string {
	t.Helper()
	command := ""
	for _, arg := range harness.Command(t, argv[0], argv[1:]...) {
		command += "'" + arg + "' "
	}
	return command
}

func terminalStopXvrun(t *testing.T) {
	term := nativeShell(t)
	stay := harness.Guest(t, "c/stay.c", harness.PIE, "-O2")
	for range 2 {
		term.Type(under(t, stay, "count") + "; echo st$?\n")
		term.Expect("\n5\r")
		term.Type("\x1a")
		term.Expect("Stopped")
		term.Expect("ready> ")
		ask(term, "jobs", "Stopped")
		term.Type("fg\n")
		term.Expect("\n99\r")
		term.Expect("ready> ")
	}
	// In the background, then to the front.
	term.Type(under(t, stay, "count") + " > out &\n")
	term.Expect("ready> ")
	term.Type("fg; tail -1 out; echo st$?\n")
	term.Expect("\n99\r\nst0")
}

func terminalInterruptXvrun(t *testing.T) {
	term := nativeShell(t)
	stay := harness.Guest(t, "c/stay.c", harness.PIE, "-O2")
	for _, c := range []struct{ key, status string }{{"\x03", "st130"}, {"\x1c", "st131"}} {
		term.Type(under(t, stay, "sleep") + "\n")
		term.Expect("\nready\r")
		term.Type(c.key)
		term.Expect("ready> ")
		ask(term, "echo st$?", c.status)
	}
	// A guest that catches the signal gets it once.
	term.Type(under(t, need.Tool(t, "bash"), "-c", `trap "echo int" INT; echo go$((4+4)); for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done; echo end; exit 5`) + "\n")
	term.Expect("go8")
	time.Sleep(100 * time.Millisecond)
	term.Type("\x03")
	term.Expect("\nint\r|\\^Cint\r")
	if got := term.Expect("(int\r\n)*end"); got != "end" {
		t.Errorf("the guest got the signal more than once: %q", got)
	}
	ask(term, "echo st$?", "st5")
	// Killed from outside while it is in the background.
	term.Type(under(t, stay, "sleep") + " &\n")
	term.Expect("ready\r")
	ask(term, "kill -"+itoa(int(syscall.SIGTERM))+" $!; wait $!; echo st$?", "st143")
}
