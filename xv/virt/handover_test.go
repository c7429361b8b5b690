//go:build linux && amd64

package virt

import (
	"reflect"
	"strings"
	"testing"
)

// TestRecordComplete fails when a new field of the guest's state is missing here: it must go into the record of a
// handover, or be right when it starts as zero in the new supervisor.
func TestRecordComplete(t *testing.T) {
	for _, c := range []struct {
		state            any
		recorded, remade string
	}{
		{Session{}, "cfg agent contexts reaper started slots nextSlot processes xfeatures mayLack",
			"store bells nothing togglePool mu free births gone first left stop stoppedBy failure settling handing closed draining resting ended status " +
				"counters traceMu traceLost deaths untied"},
		{Config{}, "Trace CacheSize StoreDir HighImages FarRegion NoTables Returns", "Path Argv Env Dir Files Ignored Limits Setpgid Warn OnFault"},
		{process{}, "pid pidfd undumpable borrows limits threads as actions", "s parent dead executing confining ignoredSet"},
		{thread{}, "slot tid alt resuming waits away passed held op trap arrived skipStep confined runs",
			"p ctx dead left cloning forking server wantsRoom parked busy halted zeroed target kicked kicking weight absent step trapKick kickMu answered admitted bounce lent armings hostMu inHost raising undo beneath starting attempting stepAt"},
		{addressSpace{}, "code ranges protected aliases guardLo guardHi files readExec lockNew mdwe unpassed former", "s mu closed unmapped moving rangesMu users tools next toggles way room changing"},
		{form{}, "hashed", "native"},
		{codeSpace{}, "form home upper given far warm volatile", "askers s cache tables farMu covering space users"},
		{signalStack{}, "sp flags size", ""},
		{trapWords{}, "trap err cr2", ""},
		{registers{}, "gpr rip rflags", ""},
		{action{}, "handler flags restorer mask", ""},
		{codeRange{}, "lo hi prot", ""},
		{limits{}, "space files", "mu"},
		{limit{}, "soft hard", ""},
		{passed{}, "call child opens", "restarts since"},
		{call{}, "nr args", ""},
		{volatileCode{}, "ranges shared async settled heat", "mu words"},
		{pageUse{}, "samples need", ""},
		{confined{}, "strict filter", ""},
		{warmth{}, "program image files", "mu"},
		{mappedFile{}, "lo hi file offset", ""},
	} {
		known := map[string]bool{}
		for _, name := range strings.Fields(c.recorded + " " + c.remade) {
			known[name] = true
		}
		typ := reflect.TypeOf(c.state)
		for i := range typ.NumField() {
			if name := typ.Field(i).Name; !known[name] {
				t.Errorf("%v.%s: what becomes of it in a handover?", typ, name)
			} else {
				delete(known, name)
			}
		}
		for name := range known {
			t.Errorf("%v has no field %s", typ, name)
		}
	}
}
