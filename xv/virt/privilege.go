//go:build linux && amd64

package virt

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"xvrun/loader"
)

// warnPrivilege tells the user of the rights that a program would have natively, but not here. status is the
// /proc/PID/status of the process that executes it.
func (s *Session) warnPrivilege(info *loader.Info, status string) {
	if info.UID < 0 && info.GID < 0 {
		return
	}
	executing, supervisor := readStatus(status), readStatus("/proc/self/status")
	if supervisor.traces || executing.noNewPrivs {
		return
	}
	if lost := info.Lost(executing.euid, executing.egid); lost != "" {
		s.warn(lost)
	}
}

// warn tells the user that something is not as in a native run.
func (s *Session) warn(text string) {
	s.trace("warning: %s", text)
	if s.cfg.Warn != nil {
		s.traceMu.Lock()
		defer s.traceMu.Unlock()
		s.cfg.Warn(text)
	}
}

// credentials are those of a process that an execve depends on.
type credentials struct {
	euid, egid int
	noNewPrivs bool // PR_SET_NO_NEW_PRIVS: set-ID bits have no effect natively either
	traces     bool // CAP_SYS_PTRACE is in the effective set: set-ID bits have an effect on its tracees
}

// readStatus reads a /proc/PID/status (proc_pid_status(5)). What can't be read is 0.
func readStatus(path string) (c credentials) {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "Uid": // real, effective, saved, file system
			fmt.Sscan(value, new(int), &c.euid)
		case "Gid":
			fmt.Sscan(value, new(int), &c.egid)
		case "NoNewPrivs":
			c.noNewPrivs = value != "0"
		case "CapEff":
			set, _ := strconv.ParseUint(value, 16, 64)
			c.traces = set>>unix.CAP_SYS_PTRACE&1 != 0
		}
	}
	return c
}
