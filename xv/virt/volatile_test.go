//go:build linux && amd64

package virt

import (
	"slices"
	"testing"
)

func TestVolatileCode(t *testing.T) {
	v := newVolatileCode()
	const page, next, shared = 0x10000, 0x11000, 0x40000
	sample := func(page uint64, alone bool) bool {
		settled, _ := v.sample(page, 1, true, alone)
		return settled
	}
	if v.contains(page) || sample(page, true) {
		t.Error("what nobody added is volatile")
	}
	v.add(page, page+2*pageSize, false)
	v.add(shared, shared+pageSize, true)
	if !v.contains(page) || !v.contains(next) || v.contains(next+pageSize) {
		t.Error("not what was added")
	}
	if all, sh := v.covers(page, page+2*pageSize); !all || sh {
		t.Errorf("covers: %v %v", all, sh)
	}
	if all, sh := v.covers(shared, shared+2*pageSize); all || !sh {
		t.Errorf("covers more than was added: %v %v", all, sh)
	}
	// Each write doubles how often a page must be seen.
	for need := 1; need <= 8; need *= 2 {
		for i := 1; i <= need; i++ {
			if got := sample(page, true); got != (i == need) {
				t.Errorf("settled after %d of %d samples: %v", i, need, got)
			}
		}
		if v.contains(page) || !v.contains(next) || sample(page, true) {
			t.Error("a settled page is volatile")
		}
		v.written(page)
		v.written(page) // by another thread
	}
	if settled, short := v.sample(page, 10, true, true); settled || short != 6 {
		t.Errorf("10 of 16 samples at once: settled %v, %d short", settled, short)
	}
	for range 20 {
		for range maxNeed {
			sample(page, true)
		}
		if v.contains(page) {
			t.Fatalf("not settled after %d samples", maxNeed)
		}
		v.written(page)
	}
	if sample(shared, false) || !sample(shared, true) {
		t.Error("shared memory settles when others can write it, or not at all")
	}
	c := v.clone()
	sample(next, true)
	dropped := v.unsettleShared()
	if !slices.Equal(dropped, []uint64{shared}) || !v.contains(shared) || v.contains(next) {
		t.Errorf("unsettled %#x", dropped)
	}
	if c.contains(shared) || !c.contains(next) {
		t.Error("the clone changes with what it is a clone of")
	}
	sample(shared, true)
	dropped = v.setAsync()
	if !slices.Contains(dropped, shared) || sample(next, true) || sample(shared, true) {
		t.Errorf("what the kernel may store into settles; unsettled %#x", dropped)
	}
	if settled, _ := v.sample(next, 1, false, true); !settled {
		t.Error("what nobody may write does not settle")
	}
	v = newVolatileCode()
	v.add(page, page+2*pageSize, false)
	if !v.contains(next) || !sample(page, true) {
		t.Error("new memory has the history of the old")
	}
}

func TestRangesMerge(t *testing.T) {
	var r ranges
	for _, lo := range []uint64{1, 3, 2, 6, 5} {
		r = r.with(lo, lo+1, 5)
	}
	r = r.with(4, 5, 7)
	if want := (ranges{{1, 4, 5}, {4, 5, 7}, {5, 7, 5}}); !slices.Equal(r, want) {
		t.Errorf("%v, want %v", r, want)
	}
	if got, want := r.within(3, 6), (ranges{{3, 4, 5}, {4, 5, 7}, {5, 6, 5}}); !slices.Equal(got, want) {
		t.Errorf("within: %v, want %v", got, want)
	}
	if got := r.with(2, 6, 5); !slices.Equal(got, ranges{{1, 7, 5}}) {
		t.Errorf("%v", got)
	}
}
