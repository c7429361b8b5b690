//go:build !plan9

package loader

import (
	"fmt"
	"syscall"
)

// Exit statuses that POSIX gives to a command that could not be run (XCU 2.9.1).
const (
	ExitCannotExecute = 126
	ExitNotFound      = 127
)

// Error tells why a file cannot be executed. Its text is one line.
type Error struct {
	Path       string        // the file as it was named
	Reason     string        // why, without the path
	Field      string        // the header field at fault, such as "e_machine"
	Errno      syscall.Errno // what execve gives; 0 if execve would succeed
	ExitStatus int           // ExitNotFound or ExitCannotExecute
}

func (e *Error) Error() string {
	if e.ExitStatus == ExitNotFound {
		return fmt.Sprintf("%q: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("%q: cannot execute: %s", e.Path, e.Reason)
}

// Unwrap makes errors.Is(err, fs.ErrNotExist) and comparisons with an errno work.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// refuse returns an Error for a file that cannot be executed.
func refuse(path string, errno syscall.Errno, format string, args ...any) *Error {
	return &Error{Path: path, Reason: fmt.Sprintf(format, args...), Errno: errno, ExitStatus: ExitCannotExecute}
}
