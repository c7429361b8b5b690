//go:build !linux && !plan9

package loader

import (
	"errors"
	"fmt"
	"runtime"
)

// Check needs Linux.
func (o Origin) Check(path string) (*Info, error) {
	return nil, fmt.Errorf("loader: %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
