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

// find returns the range that contains addr.
func (r ranges) find(addr uint64) (codeRange, bool) {
	i, _ := slices.BinarySearchFunc(r, addr, func(c codeRange, a uint64) int {
		if c.hi <= a {
			return -1
		}
		return 1
	})
	if i < len(r) && r[i].lo <= addr {
		return r[i], true
	}
	return codeRange{}, false
}

// overlaps reports whether any of [lo, hi) is in r.
func (r ranges) overlaps(lo, hi uint64) bool {
	for _, c := range r {
		if c.lo < hi && lo < c.hi {
			return true
		}
	}
	return false
}

// without returns r without [lo, hi).
func (r ranges) without(lo, hi uint64) ranges {
	var out ranges
	for _, c := range r {
		if c.hi <= lo || hi <= c.lo {
			out = append(out, c)
			continue
		}
		if c.lo < lo {
			out = append(out, codeRange{c.lo, lo, c.prot})
		}
		if hi < c.hi {
			out = append(out, codeRange{hi, c.hi, c.prot})
		}
	}
	return out
}

// with returns r with [lo, hi) of protection prot.
func (r ranges) with(lo, hi uint64, prot int) ranges {
	out := append(r.without(lo, hi), codeRange{lo, hi, prot})
	slices.SortFunc(out, func(a, b codeRange) int {
		if a.lo < b.lo {
			return -1
		}
		return 1
	})
	return out
}
