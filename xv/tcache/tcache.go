// Package tcache keeps the translations of one guest address space: the cache memory that the guest executes,
// the lookup tables of its indirect branches, the links between fragments, and their invalidation.
//
// A Space owns a piece of cache memory. A region of the guest's code is translated into a fragment, which is
// written completely before anything points at it: first links (rel32 of direct branches in other fragments), then
// table entries (indirect branches and returns). A direct branch to code that is not translated goes to an exit stub
// of its fragment, and TakeLink translates the target and patches the branch.
//
// A fragment whose original code changed is stale: nothing points at it any more, and every place in it where a thread
// can stand between two original instructions holds an int3. A thread that is still inside traps there, and Recover
// gives its original state. Memory is not used again while a thread may be inside: when the cache is full (ErrFull) another Space
// takes its place, which may Keep some of its regions; or, when all threads are out, Empty makes room.
//
// Places in the cache are given as cache offsets, distances from its start, but for the table entries, which are addresses of the guest.
//
// Everything that comes from the guest (stubs, cache offsets, original addresses) may be any value.
package tcache

import (
	"errors"

	"xvrun/xv/translate"
)

// Memory is the guest's code as the supervisor reads it now. Reads may be slow: a Space keeps copies of the pages that
// it translated from.
type Memory interface {
	// ReadCode reads executable guest memory at addr into p and returns how many bytes of p it could read from the
	// front: less than len(p) when memory ends or is not executable from there on.
	// It is called with the Space locked: it must not call the Space, nor wait for anyone who does.
	ReadCode(addr uint64, p []byte) int
}

// Config says where a Space lives. The callbacks are called with the Space locked: they must not call the Space, nor
// wait for anyone who does.
type Config struct {
	// Code is the supervisor's writable view of the cache memory, page-aligned.
	Code []byte
	// Base is the guest's address of Code[0], page-aligned and not 0.
	Base uint64
	// Layout is what the translated code refers to outside the cache.
	Layout translate.Layout
	// Slot is the supervisor's view of the table entry (J, or C when call is true) of an original address; nil when
	// no table covers it: nothing is filled then, and each indirect branch to it traps.
	Slot func(addr uint64, call bool) *uint64
	// Hashed says that there are no tables but those of the hash: all indirect branches use that. Slot is nil for all other entries. Records of
	// a Space with tables must not be restored.
	Hashed bool
	// Translated, if set, is told of a page (its first address, 4 KiB) before its bytes are read for translation, so
	// that it can be write-protected first. It may be told again at any time, and is after an Invalidate of the page.
	// Decoding may look ahead, so that a page can be told without any code being translated from it.
	Translated func(page uint64)
	// Volatile, if set, reports of a page (its first address) that its code changes often, or unnoticed: translations of
	// it are checked whenever they are entered, instead of being invalidated. Invalidate the page when that changes.
	Volatile func(page uint64) bool
	// Word, if set, is the cache offset (see translate.Layout) of a vector of translate.WordSize bytes that somebody else keeps for volatile
	// code of a page (its first address), or 0: then Suspend and Resume keep one. Invalidate the page when that changes.
	Word func(page uint64) uint32
	// Missed, if set, reports of an original address that branches to it from other regions must not be bound, nor their table entries filled:
	// each of them misses.
	Missed func(addr uint64) bool
	// Budget is how many bytes of original code one miss may translate ahead, beyond what was asked for: targets of
	// direct calls and jumps. 0: none.
	Budget int
}

var (
	// ErrFull: the cache has no room for what is to be translated.
	ErrFull = errors.New("tcache: cache full")
	// ErrStub: the address is no exit stub of a link.
	ErrStub = errors.New("tcache: not an exit stub")
	// ErrSize: one fragment is larger than the cache.
	ErrSize = errors.New("tcache: fragment larger than the cache")
)

// Stats counts since the Space was made, except where it says now.
type Stats struct {
	Regions        int    // regions translated
	Ahead          int    // of these, ahead of their first use
	Instrs         uint64 // original instructions translated
	SourceBytes    uint64 // original bytes translated
	Restored       int    // regions put in by Restore
	RestoredInstrs uint64 // original instructions in them
	CodeBytes      uint64 // bytes of fragments and entry stubs written
	Stubs          int    // entry stubs out of line
	Links          int    // direct branches bound to their target
	Unlinks        int    // bound branches that were reset to their exit stub
	Fills          int    // table entries filled
	Dropped        int    // regions that became stale
	Kept           int    // regions taken over from another Space by Keep
	Misses         uint64 // calls of Jump, FillJump, FillCall, TakeLink
	Live           int    // regions now usable
	Used           int    // bytes of cache memory now in use, stale ones included
}
