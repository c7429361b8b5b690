package tcache

import (
	"unsafe"

	"xvrun/xv/translate"
)

// arena is where the records of the regions of a cache come from. They go together, when it is given up. A program that starts
// makes thousands of small records: one by one they would touch several pages of memory for each size.
type arena struct {
	regions slab[region]
	links   slab[link]
	spans   slab[span]
	blocks  slab[translate.Block]
	entries slab[translate.Entry]
	bodies  slab[uint32]
	bytes   slab[byte]

	work []span // of makeSpans
}

// slabBytes is how much memory a slab gets at a time.
const slabBytes = 16 << 10

// slab is the rest of a piece of memory, to be handed out.
type slab[T any] struct{ rest []T }

// take returns n zero values.
func (sl *slab[T]) take(n int) []T {
	if n > len(sl.rest) {
		var zero T
		size := slabBytes / int(unsafe.Sizeof(zero))
		if n > size/4 {
			return make([]T, n)
		}
		sl.rest = make([]T, size)
	}
	t := sl.rest[:n:n]
	sl.rest = sl.rest[n:]
	return t
}

// keep returns a copy of list.
func (sl *slab[T]) keep(list []T) []T {
	t := sl.take(len(list))
	copy(t, list)
	return t
}
