//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"
)

// ownPlace reports whether the first of a directory and its parents that exists belongs to the user: sudo(8) may leave HOME
// as it was, and files of root would be in the way of their owner later.
func ownPlace(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil && dir != filepath.Dir(dir) {
			continue
		}
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		return ok && int(st.Uid) == os.Geteuid()
	}
}
