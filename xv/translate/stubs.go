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

// EmitJumpEntry returns the J entry for cache offset at of the code whose body is at the cache offset body.
func EmitJumpEntry(at, body uint32) []byte { return stub(at, body, reloadRCX) }

// EmitCallEntry returns the entry of indirect calls, IC. Its last DirectCallEntrySize bytes are D.
func EmitCallEntry(at, body uint32) []byte { return stub(at, body, reloadRCX+adjustRSP) }

// EmitDirectCallEntry returns the entry of direct calls, D.
func EmitDirectCallEntry(at, body uint32) []byte { return stub(at, body, adjustRSP) }

// EmitExit returns an exit stub for cache offset at to an agent entry. A table entry can lead to one: the
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

// Sizes of the entry of the hash, and offsets in it: of the rel32 that leads to the next entry with the same low bits, at
// first to HashEntryEnd, where control goes on to address 0.
const (
	HashEntrySize = 51
	HashEntryNext = 17
	HashEntryEnd  = 44
)

// EmitHashEntry returns the entry, for cache offset at, that goes to the cache offset first if gs:[T] is target. at is a
// multiple of 8.
func EmitHashEntry(at, first uint32, target uint64) []byte {
	code := []byte(loadT)                                                             // mov ecx,gs:[T]
	code = binary.LittleEndian.AppendUint32(append(code, subECX...), -uint32(target)) // lea ecx,[rcx-target]
	code = append(code, 0xe3, 5)                                                      // jrcxz over the jump
	code = append(code, 0xe9, HashEntryEnd-HashEntryNext-4, 0, 0, 0)                  // jmp next
	code = append(code, loadTHigh...)                                                 // mov ecx,gs:[T+4]
	code = binary.LittleEndian.AppendUint32(append(code, subECX...), -uint32(target>>32))
	code = append(code, 0xe3, 2)    // jrcxz over the jump
	code = append(code, 0xeb, 0xe9) // jmp to the jump
	code = binary.LittleEndian.AppendUint32(append(code, 0xe9), first-(at+HashEntryEnd))
	return append(code, "\xb9\x00\x00\x00\x00\xff\xe1"...) // mov ecx,0 ; jmp rcx
}

const (
	loadT     = "\x65\x8b\x0c\x25\x10\x00\x00\x00"
	loadTHigh = "\x65\x8b\x0c\x25\x14\x00\x00\x00"
	subECX    = "\x8d\x89" // lea ecx,[rcx+disp32]
)

// RecoverHashEntry is the recovery at an offset in an entry of the hash for the code at orig.
func RecoverHashEntry(orig uint64, call bool, off uint32) (Recovery, bool) {
	switch off {
	case 39: // the jump to the code
		r := Recovery{RIP: orig, RCXFromS: true}
		if call {
			r.RSPAdd = 8
		}
		return r, true
	case 0, 8, 14, 16, 21, 29, 35, 37, HashEntryEnd, HashEntryEnd + 5:
		return Recovery{Kind: KindMiss}, true
	}
	return Recovery{}, false
}
