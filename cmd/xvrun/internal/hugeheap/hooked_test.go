//go:build linux && amd64 && !race && !msan && !asan

package hugeheap

func init() { hooked = true }
