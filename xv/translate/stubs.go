package translate

import "encoding/binary"

// Sizes of the entry stubs that lie out of line, and of an exit stub.
const (
	JumpEntrySize       = sizeGS + sizeJmp
	CallEntrySize       = sizeGS + sizeAdjust + sizeJmp
	DirectCallEntrySize = sizeAdjust + sizeJmp
	ExitSize            = sizeStub
)

// reloadRCX is mov rcx,gs:[S].
const reloadRCX = "\x65\x48\x8b\x0c\x25\x08\x00\x00\x00"

// EmitJumpEntry writes the J entry at cache address at of the code whose body is at the cache address body.
func EmitJumpEntry(dst []byte, at, body uint32) { stub(dst, at, body, reloadRCX) }

// EmitCallEntry writes the entry of indirect calls, IC.
func EmitCallEntry(dst []byte, at, body uint32) { stub(dst, at, body, reloadRCX+adjustRSP) }

// EmitDirectCallEntry writes the entry of direct calls, D.
func EmitDirectCallEntry(dst []byte, at, body uint32) { stub(dst, at, body, adjustRSP) }

func stub(dst []byte, at, body uint32, head string) {
	n := copy(dst, head)
	dst[n] = 0xe9 // jmp rel32
	binary.LittleEndian.PutUint32(dst[n+1:], body-(at+uint32(n)+5))
}

// EmitExit writes an exit stub at cache address at to an agent entry. A table entry can lead to one: the first
// use then enters the agent.
func EmitExit(dst []byte, at, to uint32) {
	n := copy(dst, exitHead)
	binary.LittleEndian.PutUint32(dst[n:], at)
	stub(dst[n+4:], at+uint32(n)+4, to, "")
}

// RecoverJumpEntry is the recovery at an offset in a J entry of the code at orig.
func RecoverJumpEntry(orig uint64, off uint32) (Recovery, bool) {
	switch off {
	case 0:
		return Recovery{RIP: orig, RCXFromS: true}, true
	case sizeGS:
		return Recovery{RIP: orig}, true
	}
	return Recovery{}, false
}

// RecoverCallEntry is the recovery at an offset in an IC entry.
func RecoverCallEntry(orig uint64, off uint32) (Recovery, bool) {
	if off == 0 {
		return Recovery{RIP: orig, RCXFromS: true, RSPAdd: 8}, true
	}
	return RecoverDirectCallEntry(orig, off-sizeGS)
}

// RecoverDirectCallEntry is the recovery at an offset in a D entry.
func RecoverDirectCallEntry(orig uint64, off uint32) (Recovery, bool) {
	switch off {
	case 0:
		return Recovery{RIP: orig, RSPAdd: 8}, true
	case sizeAdjust:
		return Recovery{RIP: orig}, true
	}
	return Recovery{}, false
}
