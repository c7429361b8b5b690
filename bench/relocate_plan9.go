package main

import (
	"context"
	"errors"
)

// relocate has nothing to move: there are no guests.
func relocate(context.Context, int) error { return errors.ErrUnsupported }
