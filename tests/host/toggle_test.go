//go:build linux && amd64

package host

import "testing"

// TestToggledCode runs a guest that makes code writable and executable in turn 20,000 times: that must not need the supervisor each time.
func TestToggledCode(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/toggle.c", "count")
	run(t, cmd, out, "ok\n")
	if n := cmd.Process.Stats().Handoffs; n > 10000 {
		t.Errorf("%d hand-offs", n)
	}
}
