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

// EmitJumpEntry returns the J entry for cache address at of the code whose body is at the cache address body.
func EmitJumpEntry(at, body uint32) []byte { return stub(at, body, reloadRCX) }

// EmitCallEntry returns the entry of indirect calls, IC. Its last DirectCallEntrySize bytes are D.
func EmitCallEntry(at, body uint32) []byte { return stub(at, body, reloadRCX+adjustRSP) }

// EmitDirectCallEntry returns the entry of direct calls, D.
func EmitDirectCallEntry(at, body uint32) []byte { return stub(at, body, adjustRSP) }

// EmitExit returns an exit stub for cache address at to an agent entry. A table entry can lead to one: the
// first use then enters the agent.
func EmitExit(at, to uint32) []byte {
	return stub(at, to, exitHead+string(binary.LittleEndian.AppendUint32(nil, at)))
}

// stub appends jmp to to head.
func stub(at, to uint32, head string) []byte {
	code := append([]byte(head), 0xe9) // jmp rel32
	return binary.LittleEndian.AppendUint32(code, to-(at+uint32(len(head))+sizeJmp))
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
