//go:build !plan9

package main

import (
	"fmt"
	"os"
	"sync"
)

// report is where -stats and -trap-print write. The first error is a warning, and changes nothing else.
type report struct {
	*os.File
	lost sync.Once
}

func (r *report) Write(b []byte) (int, error) {
	n, err := r.File.Write(b)
	r.check(err)
	return n, err
}

// WriteString is Write: os.File has one of its own.
func (r *report) WriteString(s string) (int, error) { return r.Write([]byte(s)) }

func (r *report) close() { r.check(r.File.Close()) }

func (r *report) check(err error) {
	if err != nil {
		r.lost.Do(func() { warn(fmt.Sprintf("the report is not complete: %v", err)) })
	}
}
