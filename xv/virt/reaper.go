//go:build linux && amd64

package virt

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// reaper is the process that ends the guest's processes when the supervisor dies, even by SIGKILL. It
// learns of that by the end of a pipe. It is not the guests' parent and needs no privilege.
//
// The first process of a guest does without: it gets a signal from the kernel (PR_SET_PDEATHSIG(2const)), which its own
// children wouldn't. So the reaper's process is started before there is a second one, and when the guest has run for a
// while: it takes as long as a third of a short program.
type reaper struct {
	pid      int      // 0: another supervisor has started it
	pipe     *os.File // write end, which nobody else holds
	pids     *shared
	contexts *shared

	once    sync.Once
	started chan struct{} // closed when the process runs, or err says why not
	err     error

	mu   sync.Mutex
	slot map[int]int // index in the table of each process id
	free []int
	next int // the indices from here on were never used
}

// newReaper makes the reaper of a session, without its process.
func newReaper(contexts *shared) (*reaper, error) {
	pids, err := newShared("xv-pids", 4*abi.ReaperPIDs, false)
	if err != nil {
		return nil, err
	}
	return &reaper{pids: pids, contexts: contexts, slot: map[int]int{}, started: make(chan struct{})}, nil
}

// start starts the process, unless that was done.
func (r *reaper) start() {
	r.once.Do(func() {
		go func() {
			defer close(r.started)
			if err := r.spawn(); err != nil {
				r.err = fmt.Errorf("starting the reaper: %w", err)
			}
		}()
	})
}

// ready returns when the process runs: the guest may not make a process before. One that nobody knows yet when the supervisor is
// killed ends because the reaper says that nobody will answer.
func (r *reaper) ready() error {
	r.start()
	<-r.started
	return r.err
}

// errNoReaper says that the reaper's process was not needed.
var errNoReaper = errors.New("the reaper was not started")

// adoptReaper returns the reaper that another supervisor has started.
func adoptReaper(pids *shared, pipe *os.File) *reaper {
	r := &reaper{pids: pids, pipe: pipe, slot: map[int]int{}, next: abi.ReaperPIDs, started: make(chan struct{})}
	r.once.Do(func() { close(r.started) })
	for i := range abi.ReaperPIDs {
		if pid := word32(pids.view, 4*i).Load(); pid != 0 {
			r.slot[int(pid)] = i
		} else {
			r.free = append(r.free, i)
		}
	}
	return r
}

func (r *reaper) spawn() error {
	image := agent.ReaperELF()
	exe, err := newShared("xv-reaper", len(image), false)
	if err != nil {
		return err
	}
	defer exe.close()
	copy(exe.view, image)
	unix.Munmap(exe.view) // a file that is mapped writable can't be executed (ETXTBSY)
	exe.view = nil
	path := fmt.Sprintf("/proc/self/fd/%d", exe.fd)
	// A descriptor open for writing has the same effect: execute by one that isn't.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unix.Close(exe.fd)
	exe.fd = -1
	rd, wr, err := os.Pipe()
	if err != nil {
		return err
	}
	defer rd.Close()
	// The file is given a number in the child: ForkExec takes others there for itself.
	_, err = blocked(func() (err error) {
		r.pid, err = syscall.ForkExec("/proc/self/fd/3", []string{"xv-reaper"},
			&syscall.ProcAttr{Files: []uintptr{rd.Fd(), uintptr(r.pids.fd), uintptr(r.contexts.fd), uintptr(fd)}})
		return err
	})
	if err != nil {
		wr.Close()
		return err
	}
	r.pipe = wr
	return nil
}

// add makes the reaper responsible for a process. Beyond its capacity processes end only when they
// next ask the supervisor for something.
func (r *reaper) add(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.next
	if n := len(r.free); n > 0 {
		i = r.free[n-1]
		r.free = r.free[:n-1]
	} else if r.next == abi.ReaperPIDs {
		return
	} else {
		r.next++
	}
	r.slot[pid] = i
	word32(r.pids.view, 4*i).Store(uint32(pid))
}

// remove is add's inverse, for a process that has ended.
func (r *reaper) remove(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i, ok := r.slot[pid]; ok {
		delete(r.slot, pid)
		word32(r.pids.view, 4*i).Store(0)
		r.free = append(r.free, i)
	}
}

// stop ends the reaper; there is nothing left to reap.
func (r *reaper) stop() {
	if r == nil {
		return
	}
	r.once.Do(func() { r.err = errNoReaper; close(r.started) })
	if r.ready() == nil {
		r.pipe.Write([]byte{1})
		r.pipe.Close()
		r.wait()
	}
	r.pids.close()
}

// part leaves the reaper to another supervisor, which has the pipe too.
func (r *reaper) part() {
	r.pipe.Close()
	r.pids.close()
	go r.wait()
}

// wait waits for the end of the reaper if it is a child of this process.
func (r *reaper) wait() {
	for r.pid != 0 {
		if _, err := unix.Wait4(r.pid, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
}
