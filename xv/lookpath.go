//go:build !plan9

package xv

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"xvrun/loader"
)

// lookPath finds a program in PATH with exec.LookPath, and says as a shell
// does whether a file of that name is missing or may not be executed.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) || !errors.Is(err, exec.ErrNotFound) {
		return path, err
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		candidate := filepath.Join(dir, name)
		if st, err := os.Stat(candidate); err == nil && st.Mode().IsRegular() {
			return candidate, &loader.Error{
				Path: candidate, Reason: syscall.EACCES.Error(), Errno: syscall.EACCES, ExitStatus: loader.ExitCannotExecute,
			}
		}
	}
	return "", &loader.Error{Path: name, Reason: "not found in PATH", Errno: syscall.ENOENT, ExitStatus: loader.ExitNotFound}
}
