//go:build linux && amd64

package xv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"xvrun/loader"
	"xvrun/xv/trap"
	"xvrun/xv/virt"
)

// fakeSession runs the program natively, so that Cmd can be tested without a
// translator.
type fakeSession struct {
	cmd  *exec.Cmd
	cfg  *virt.Config
	once sync.Once
	gone chan struct{} // closed by Wait
	stop func(syscall.Signal)
}

// useFake makes Cmd start programs natively for the length of a test. The
// sessions started are sent to the channel returned.
func useFake(t *testing.T) <-chan *fakeSession {
	t.Helper()
	real := start
	t.Cleanup(func() { start = real })
	started := make(chan *fakeSession, 16)
	start = func(cfg *virt.Config) (session, error) {
		if _, err := (loader.Origin{Dir: cfg.Dir}).Check(cfg.Path); err != nil {
			return nil, err
		}
		s := &fakeSession{cfg: cfg, cmd: &exec.Cmd{Path: cfg.Path, Args: cfg.Argv, Env: cfg.Env, Dir: cfg.Dir}, gone: make(chan struct{})}
		s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = cfg.Files[0], cfg.Files[1], cfg.Files[2]
		s.cmd.ExtraFiles = cfg.Files[3:]
		if err := s.cmd.Start(); err != nil {
			return nil, err
		}
		started <- s
		return s, nil
	}
	return started
}

func (s *fakeSession) Pid() int { return s.cmd.Process.Pid }

func (s *fakeSession) Wait() (virt.Status, error) {
	defer close(s.gone)
	err := s.cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		return virt.Status{}, err
	}
	st := s.cmd.ProcessState
	return virt.Status{WaitStatus: st.Sys().(syscall.WaitStatus), Rusage: st.SysUsage().(*syscall.Rusage)}, nil
}

func (s *fakeSession) Gone() <-chan struct{} { return s.gone }

func (s *fakeSession) Watch(int, uint64, uint64, trap.Access, func(*trap.Context) trap.Action, bool) (virt.PageTool, error) {
	return nil, os.ErrProcessDone
}

func (s *fakeSession) Page(int, uint64, uint64, func(int, uint64, []byte) error) (virt.PageTool, error) {
	return nil, os.ErrProcessDone
}

func (s *fakeSession) Relocate(context.Context, virt.Relocation) ([]virt.Relocated, error) {
	return nil, os.ErrProcessDone
}

func (s *fakeSession) TrackDirty(int, uint64, uint64) (virt.PageTool, error) {
	return nil, os.ErrProcessDone
}

func (s *fakeSession) HandOver(string, []string) error { return os.ErrProcessDone }

func (s *fakeSession) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

func (s *fakeSession) SetStopHandler(f func(syscall.Signal)) { s.stop = f }

func (s *fakeSession) Stats() virt.Stats { return virt.Stats{Processes: 1} }

func (s *fakeSession) Close() error {
	s.once.Do(func() { s.cmd.Process.Signal(os.Kill) })
	return nil
}
