//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"sync"
)

// The rights of protection keys (PKRU) are a component of the extended state: a handler does not start with its initial value,
// which permits everything, but with the kernel's, by which only key 0 is accessible (pkeys(7), signal(7)).

// initialPKRU is init_pkru_value of the kernel (arch/x86/mm/pkeys.c).
const initialPKRU = 0x55555554

// xPKRU is the bit of the component in XSTATE_BV (Intel SDM vol. 1, 13.1).
const xPKRU = 1 << 9

// pkruOffset is where the component lies in extended state that is not compacted (Intel SDM vol. 1, 13.4.3).
var pkruOffset = sync.OnceValue(func() uint32 { return componentOffset(9) })

// componentOffset is where a component of the extended state lies, 0 if the processor does not have it.
func componentOffset(component uint32) uint32 {
	const leaf = 0xd // processor extended state
	if highest, _, _, _ := cpuid(0, 0); highest < leaf {
		return 0
	}
	_, offset, _, _ := cpuid(leaf, component)
	return offset
}

// setPKRU gives the extended state x, which has been reset, the rights that a handler starts with. features are the
// components that the kernel knows.
func setPKRU(x []byte, features uint64, offset uint32) {
	if features&xPKRU == 0 || offset < xHeader+xHeaderSize || uint64(offset)+8 > uint64(len(x)) {
		return
	}
	binary.LittleEndian.PutUint64(x[xHeader:], xPKRU)
	binary.LittleEndian.PutUint64(x[offset:], initialPKRU)
}

// cpuid executes the instruction of that name.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
