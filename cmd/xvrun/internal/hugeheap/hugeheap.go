//go:build unix

// Package hugeheap makes the first memory of the Go runtime's heap huge pages, where the kernel gives those to who asks
// (/sys/kernel/mm/transparent_hugepage/enabled). A command that lives for milliseconds touches some hundred pages of heap, since each
// thread that allocates begins with pages of its own for each size. Clearing two or three huge pages takes a third of the time of as
// many page faults.
//
// The advice has to come before the runtime touches the memory. Only commands import this package: it takes the runtime's hook of mmap(2)
// for cgo, so it can't be linked together with package runtime/cgo, nor under the race detector, which needs that too; there it does nothing.
package hugeheap

// What the runtime maps at once as it makes its heap larger, and how often it is advised of, in bytes.
const (
	chunk = 4 << 20
	limit = 2 * chunk
)

// advised counts the bytes.
var advised uint64
