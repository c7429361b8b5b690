//go:build linux && amd64 && !race && !msan && !asan

package inherited

func init() { hooked = true }
