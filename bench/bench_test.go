package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	if lo, mid, hi := spread([]int{3, 1, 2}); lo != 1 || mid != 2 || hi != 3 {
		t.Errorf("spread: %d %d %d", lo, mid, hi)
	}
	if lo, mid, hi := spread([]float64{}); lo != 0 || mid != 0 || hi != 0 {
		t.Errorf("spread of nothing: %v %v %v", lo, mid, hi)
	}
}

func TestExceeds(t *testing.T) {
	w := workload{name: "w", maxRatio: 1.3, maxTime: time.Second}
	for _, c := range []struct {
		r    result
		want string
	}{
		{result{runner: "xvrun", ratios: []float64{1.1, 1.2, 9}, times: []time.Duration{1, 2, 3}}, ""},
		{result{runner: "xvrun", ratios: []float64{1.1, 1.4, 9}, times: []time.Duration{1, 2, 3}}, "1.40 times"},
		{result{runner: "xvrun", ratios: []float64{1}, times: []time.Duration{2 * time.Second}}, "takes 2s"},
		{result{runner: "xvrun", err: errors.New("broken")}, "broken"},
		{result{runner: "qemu", ratios: []float64{8}}, ""},
	} {
		if got := c.r.exceeds(w); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.r, got, c.want)
		}
	}
}
