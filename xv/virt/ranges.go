package virt

import "slices"

// codeRange is memory that the guest may execute.
type codeRange struct {
	lo, hi uint64
	prot   int // as the guest sees it, with PROT_EXEC
}

// ranges are disjoint and in order.
type ranges []codeRange

func (r ranges) clone() ranges { return slices.Clone(r) }

// from returns the index of the first range that ends behind addr: page tools may have many.
func (r ranges) from(addr uint64) int {
	i, _ := slices.BinarySearchFunc(r, addr, func(c codeRange, a uint64) int {
		if c.hi <= a {
			return -1
		}
		return 1
	})
	return i
}

// find returns the range that contains addr.
func (r ranges) find(addr uint64) (codeRange, bool) {
	if i := r.from(addr); i < len(r) && r[i].lo <= addr {
		return r[i], true
	}
	return codeRange{}, false
}

// within returns the parts of r in [lo, hi).
func (r ranges) within(lo, hi uint64) (parts ranges) {
	for _, c := range r[r.from(lo):] {
		if hi <= c.lo {
			break
		}
		parts = append(parts, codeRange{max(lo, c.lo), min(hi, c.hi), c.prot})
	}
	return parts
}

// overlaps reports whether any of [lo, hi) is in r.
func (r ranges) overlaps(lo, hi uint64) bool {
	i := r.from(lo)
	return i < len(r) && r[i].lo < hi
}

// cut removes [lo, hi) from r, in place, as append does.
func (r ranges) cut(lo, hi uint64) ranges {
	first := r.from(lo)
	last := first
	var keep ranges
	for ; last < len(r) && r[last].lo < hi; last++ {
		c := r[last]
		if c.lo < lo {
			keep = append(keep, codeRange{c.lo, lo, c.prot})
		}
		if hi < c.hi {
			keep = append(keep, codeRange{hi, c.hi, c.prot})
		}
	}
	return slices.Replace(r, first, last, keep...)
}

// put adds [lo, hi) of protection prot to r, in place, as append does. Neighbours of equal protection become one range.
func (r ranges) put(lo, hi uint64, prot int) ranges {
	out := r.cut(lo, hi)
	i := out.from(lo)
	out = slices.Insert(out, i, codeRange{lo, hi, prot})
	if i+1 < len(out) && out[i+1].lo == hi && out[i+1].prot == prot {
		out[i].hi = out[i+1].hi
		out = slices.Delete(out, i+1, i+2)
	}
	if i > 0 && out[i-1].hi == lo && out[i-1].prot == prot {
		out[i-1].hi = out[i].hi
		out = slices.Delete(out, i, i+1)
	}
	return out
}

// without returns r without [lo, hi), and leaves r as it is.
func (r ranges) without(lo, hi uint64) ranges { return r.clone().cut(lo, hi) }

// with returns r with [lo, hi) of protection prot, and leaves r as it is.
func (r ranges) with(lo, hi uint64, prot int) ranges { return r.clone().put(lo, hi, prot) }

// record lists lo, hi and prot of each range.
func (r ranges) record() (list [][3]uint64) {
	for _, c := range r {
		list = append(list, [3]uint64{c.lo, c.hi, uint64(c.prot)})
	}
	return list
}

// rangesOf is the inverse of record.
func rangesOf(list [][3]uint64) (r ranges) {
	for _, c := range list {
		r = append(r, codeRange{c[0], c[1], int(c[2])})
	}
	return r
}
