//go:build linux && amd64

package virt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"xvrun/loader"
)

// A new thread says who it is, in words that the guest can write. What the supervisor does to that
// thread (reading its memory, tracing it) must not reach a process that is no part of the guest, so
// the kernel is asked. In a PID namespace of its own a guest sees other numbers than the supervisor.

// settle finds out which process child is, which parent made and which is said to be pid, and registers
// it. It is called when the clone is done and by the child's first request, in either order: a vfork is
// done late, and the parent of an early child may be gone when the child asks.
func (s *Session) settle(child, parent *process, pid int) error {
	s.settling.Lock()
	defer s.settling.Unlock()
	if child.pid != 0 {
		return nil
	}
	pid, err := parent.identify(pid)
	if err == nil {
		err = s.adopt(child, pid)
	}
	if err == nil {
		s.born(child)
	}
	return err
}

// identify returns the process and thread id of a new process whose parent is p, which sees itself
// as pid.
func (p *process) identify(pid int) (int, error) {
	s := p.s
	if ppid, ok := parentOf(pid); ok && (s.has(ppid) || ppid == os.Getpid()) && !s.has(pid) {
		return pid, nil
	}
	unknown := false
	for _, child := range childrenOf(p.pid) {
		if s.has(child) {
			continue
		}
		unknown = true
		if innermostID(fmt.Sprintf("/proc/%d/status", child)) == pid {
			return child, nil
		}
	}
	if found := s.orphan(pid); found != 0 {
		return found, nil
	}
	if !unknown {
		return 0, errEnded
	}
	return 0, fmt.Errorf("a new process says that it is %d, but it is no child of process %d", pid, p.pid)
}

// orphan finds a new process that sees itself as pid, and whose parent has died since it made it: one that
// is not known yet, and has the contexts of this session mapped as only its processes have. It returns
// 0 if there is none.
func (s *Session) orphan(pid int) int {
	if !s.has(pid) && s.mapsContexts(pid) {
		return pid
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err == nil && !s.has(n) && innermostID(fmt.Sprintf("/proc/%d/status", n)) == pid && s.mapsContexts(n) {
			return n
		}
	}
	return 0
}

// mapsContexts reports whether a process has the contexts of this session.
func (s *Session) mapsContexts(pid int) bool {
	var st unix.Stat_t
	if unix.Fstat(s.contexts.fd, &st) != nil {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false
	}
	maps, err := loader.ParseMaps(text)
	if err != nil {
		return false
	}
	for _, v := range maps {
		if v.Inode == st.Ino && v.Dev == uint64(unix.Major(st.Dev))<<32|uint64(unix.Minor(st.Dev)) {
			return true
		}
	}
	return false
}

// identifyThread returns the id of a new thread of p, which sees itself as tid.
func (p *process) identifyThread(tid int) (int, error) {
	if unix.Tgkill(p.pid, tid, 0) == nil {
		return tid, nil
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		if innermostID(fmt.Sprintf("/proc/%d/task/%s/status", p.pid, t.Name())) == tid {
			return strconv.Atoi(t.Name())
		}
	}
	return 0, errEnded // by an execve or exit of another thread
}

// errEnded says that a new thread or process has ended before it was identified. One that lies waits for
// ever.
var errEnded = errors.New("it has ended")

// has reports whether pid is a process of the guest.
func (s *Session) has(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[pid] != nil
}

// parentOf reads a process's parent.
func parentOf(pid int) (int, bool) {
	fields := statOf(pid)
	if len(fields) < 2 {
		return 0, false
	}
	ppid, err := strconv.Atoi(string(fields[1]))
	return ppid, err == nil
}

// ending reports whether a thread is exiting, or gone.
func ending(tid int) bool {
	fields := statOf(tid)
	return len(fields) == 0 || fields[0][0] == 'Z' || fields[0][0] == 'X'
}

// statOf reads /proc/TID/stat from the state on, which is behind the name in parentheses.
func statOf(tid int) [][]byte {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tid))
	if err != nil {
		return nil
	}
	return bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
}

// childrenOf lists the children of all threads of a process.
func childrenOf(pid int) (list []int) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for _, f := range bytes.Fields(text) {
			if n, err := strconv.Atoi(string(f)); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

// processOf returns the process of the thread or process that th numbers id, nil if it is none of the
// guest's.
func (th *thread) processOf(id int) *process {
	own := namespaceIDs(fmt.Sprintf("/proc/%d/status", th.tid))
	s := th.p.s
	if len(own) == 1 {
		if s.has(id) {
			return s.process(id)
		}
		return s.process(threadGroup(id))
	}
	for _, p := range s.alive() {
		if ids := namespaceIDs(fmt.Sprintf("/proc/%d/status", p.pid)); len(ids) >= len(own) && ids[len(own)-1] == id {
			return p
		}
	}
	return nil
}

func (s *Session) process(pid int) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[pid]
}

// threadGroup is the process of a thread, 0 if there is none.
func threadGroup(tid int) int {
	if ids := statusNumbers(fmt.Sprintf("/proc/%d/status", tid), "Tgid"); len(ids) == 1 {
		return ids[0]
	}
	return 0
}

// innermostID is the id of a task in its own PID namespace, 0 if it is gone.
func innermostID(path string) int {
	if ids := namespaceIDs(path); len(ids) > 0 {
		return ids[len(ids)-1]
	}
	return 0
}

// namespaceIDs are the ids of a task in the supervisor's PID namespace and those below, down to its own.
func namespaceIDs(path string) []int { return statusNumbers(path, "NSpid") }

// statusNumbers returns the numbers of a field of a status file (proc_pid_status(5)).
func statusNumbers(path, field string) (list []int) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	_, rest, _ := bytes.Cut(text, []byte("\n"+field+":"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	for _, f := range bytes.Fields(line) {
		if n, err := strconv.Atoi(string(f)); err == nil {
			list = append(list, n)
		}
	}
	return list
}
