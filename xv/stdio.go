//go:build !plan9

package xv

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"syscall"
	"time"
)

// stdio holds the descriptors of a Cmd and the goroutines that serve them.
type stdio struct {
	child  []*os.File // closed here once the guest has them
	parent []*os.File // closed when the guest has ended
	copies []func() error
	result chan error
}

// open makes the files of the guest's descriptors, by number.
func (s *stdio) open(c *Cmd) ([]*os.File, error) {
	stdin, err := s.reader(c.Stdin)
	if err != nil {
		return nil, err
	}
	stdout, err := s.writer(c.Stdout)
	if err != nil {
		return nil, err
	}
	stderr := stdout
	if c.Stderr == nil || !same(c.Stdout, c.Stderr) {
		if stderr, err = s.writer(c.Stderr); err != nil {
			return nil, err
		}
	}
	return append([]*os.File{stdin, stdout, stderr}, c.ExtraFiles...), nil
}

// same reports whether two writers are one. Writers of types that cannot be
// compared are not.
func same(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}

func (s *stdio) reader(r io.Reader) (*os.File, error) {
	if f, ok := r.(*os.File); ok {
		return f, nil
	}
	if r == nil {
		return s.null(os.O_RDONLY)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.child, s.parent = append(s.child, pr), append(s.parent, pw)
	s.copies = append(s.copies, func() error {
		_, err := io.Copy(pw, r)
		// A program need not read all of its input.
		if errors.Is(err, syscall.EPIPE) {
			err = nil
		}
		return errors.Join(err, ignoreClosed(pw.Close()))
	})
	return pr, nil
}

func (s *stdio) writer(w io.Writer) (*os.File, error) {
	if f, ok := w.(*os.File); ok {
		return f, nil
	}
	if w == nil {
		return s.null(os.O_WRONLY)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.child, s.parent = append(s.child, pw), append(s.parent, pr)
	s.copies = append(s.copies, func() error {
		_, err := io.Copy(w, pr)
		return errors.Join(err, ignoreClosed(pr.Close()))
	})
	return pw, nil
}

func (s *stdio) null(flag int) (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		s.child = append(s.child, f)
	}
	return f, err
}

// ignoreClosed forgives that a pipe was closed by its user, or by finish.
func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// started closes the guest's ends and starts copying.
func (s *stdio) started() {
	closeFiles(s.child)
	s.child = nil
	s.result = make(chan error, len(s.copies))
	for _, f := range s.copies {
		go func() { s.result <- f() }()
	}
}

// finish waits for the copies to end, at most for delay if that is not 0, and
// closes the ends that are held here.
func (s *stdio) finish(delay time.Duration) error {
	var expired <-chan time.Time
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		expired = t.C
	}
	var first error
	late := false
	for range s.copies {
		select {
		case err := <-s.result:
			if first == nil && !late {
				first = err
			}
		case <-expired:
			// Closing ends reads and writes of pipes. A Read of the
			// caller's own reader may still block; it is left behind.
			late = true
			expired = nil
			closeFiles(s.parent)
			if first == nil {
				first = ErrWaitDelay
			}
		}
		if late {
			break
		}
	}
	closeFiles(s.parent)
	s.parent = nil
	return first
}

// closeAll gives everything up, before the guest was started.
func (s *stdio) closeAll() {
	closeFiles(s.child)
	closeFiles(s.parent)
	*s = stdio{}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// StdinPipe returns a pipe to the program's standard input. Wait closes it;
// close it earlier where the program reads to the end of its input.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil {
		return nil, errors.New("xv: Stdin already set")
	}
	pr, pw, err := c.pipe()
	if err != nil {
		return nil, err
	}
	c.Stdin = pr
	c.stdio.child, c.stdio.parent = append(c.stdio.child, pr), append(c.stdio.parent, pw)
	return pw, nil
}

// StdoutPipe returns a pipe from the program's standard output. Read all of it
// before calling Wait, which closes it.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if c.Stdout != nil {
		return nil, errors.New("xv: Stdout already set")
	}
	pr, pw, err := c.pipe()
	if err != nil {
		return nil, err
	}
	c.Stdout = pw
	c.stdio.child, c.stdio.parent = append(c.stdio.child, pw), append(c.stdio.parent, pr)
	return pr, nil
}

// StderrPipe returns a pipe from the program's standard error, with the rules
// of StdoutPipe.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if c.Stderr != nil {
		return nil, errors.New("xv: Stderr already set")
	}
	pr, pw, err := c.pipe()
	if err != nil {
		return nil, err
	}
	c.Stderr = pw
	c.stdio.child, c.stdio.parent = append(c.stdio.child, pw), append(c.stdio.parent, pr)
	return pr, nil
}

func (c *Cmd) pipe() (r, w *os.File, err error) {
	if c.Process != nil {
		return nil, nil, errors.New("xv: pipe asked for after Start")
	}
	return os.Pipe()
}
