//go:build unix

package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Processes returns the living processes of a run: those of its session, and
// those that carry its token in the environment.
func Processes(token string, session int) []int {
	mark := []byte("XVTEST=" + token + "\x00")
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		st, ok := ReadStat(pid)
		if !ok || st.State == 'Z' || st.State == 'X' {
			continue
		}
		if st.Session != session {
			env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if !bytes.Contains(env, mark) {
				continue
			}
		}
		pids = append(pids, pid)
	}
	return pids
}

// Stat is a part of /proc/PID/stat.
type Stat struct {
	State      byte
	PPID       int
	Session    int
	StartTime  uint64
	StackStart uint64 // differs from one execve to the next
}

// ReadStat reads /proc/pid/stat.
func ReadStat(pid int) (st Stat, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return st, false
	}
	// The name in parentheses may hold anything.
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return st, false
	}
	f := strings.Fields(string(data[i+1:]))
	if len(f) < 26 {
		return st, false
	}
	st.State = f[0][0]
	st.PPID, _ = strconv.Atoi(f[1])
	st.Session, _ = strconv.Atoi(f[3])
	st.StartTime, _ = strconv.ParseUint(f[19], 10, 64)
	st.StackStart, _ = strconv.ParseUint(f[25], 10, 64)
	return st, true
}

// waitGone waits until no process of the run is left, and returns those that
// stay longer than limit.
func waitGone(token string, session int, limit time.Duration) []int {
	deadline := time.Now().Add(limit)
	for {
		left := Processes(token, session)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// WaitGone is waitGone for tests that start processes themselves.
func WaitGone(token string, session int, limit time.Duration) []int {
	return waitGone(token, session, limit)
}

// KillAll ends every process of a run, each by its pid.
func KillAll(token string, session int) {
	for range 20 {
		pids := Processes(token, session)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Dump describes every process of a run.
func Dump(token string, session int) string {
	var b strings.Builder
	pids := Processes(token, session)
	// The guests first.
	slices.SortStableFunc(pids, func(a, b int) int { return order(IsXvrun(a)) - order(IsXvrun(b)) })
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		exe, _ := os.Readlink(dir + "/exe")
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		fmt.Fprintf(&b, "process %d: %s: %s\n", pid, exe, bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte(" ")))
		tasks, _ := filepath.Glob(dir + "/task/*")
		for _, task := range tasks {
			wchan, _ := os.ReadFile(task + "/wchan")
			call, _ := os.ReadFile(task + "/syscall")
			fmt.Fprintf(&b, "  thread %s: %s, syscall %s, in %s\n", filepath.Base(task),
				statusLine(task, "State", "SigPnd", "SigBlk", "SigCgt"), bytes.TrimSpace(call), wchan)
		}
		maps, _ := os.ReadFile(dir + "/maps")
		lines := strings.SplitAfter(string(maps), "\n")
		const most = 80
		if len(lines) > most {
			lines = append(lines[:most], fmt.Sprintf("... %d more lines\n", len(lines)-most))
		}
		b.WriteString("    " + strings.Join(lines, "    ") + "\n")
	}
	return b.String()
}

func order(last bool) int {
	if last {
		return 1
	}
	return 0
}

func statusLine(dir string, keys ...string) string {
	data, _ := os.ReadFile(dir + "/status")
	var found []string
	for _, line := range strings.Split(string(data), "\n") {
		key, value, _ := strings.Cut(line, ":")
		for _, k := range keys {
			if k == key {
				found = append(found, k+" "+strings.TrimSpace(value))
			}
		}
	}
	return strings.Join(found, ", ")
}

// Mapping is a line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64
	Perms      string
	Name       string
}

// ReadMaps reads /proc/pid/maps; it returns nothing for a process that is gone.
func ReadMaps(pid int) []Mapping {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	var maps []Mapping
	for _, line := range strings.Split(string(data), "\n") {
		var m Mapping
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &m.Start, &m.End, &m.Perms); n != 3 {
			continue
		}
		if f := strings.Fields(line); len(f) > 5 {
			m.Name = strings.Join(f[5:], " ")
		}
		maps = append(maps, m)
	}
	return maps
}
