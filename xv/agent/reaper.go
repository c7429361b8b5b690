package agent

import "encoding/binary"

// ReaperELF returns an executable that ends the processes of a guest when the supervisor has died:
// asm/reaper.asm with an ELF header and one program header (System V ABI, chapters 4 and 5).
func ReaperELF() []byte {
	const (
		headers = 64 + 56
		base    = 0x10000
	)
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...) // 64 bits, little-endian, version 1
	b = le.AppendUint16(b, 2)                                      // e_type: ET_EXEC
	b = le.AppendUint16(b, 62)                                     // e_machine: EM_X86_64
	b = le.AppendUint32(b, 1)                                      // e_version
	b = le.AppendUint64(b, base+headers+offReap)                   // e_entry
	b = le.AppendUint64(b, 64)                                     // e_phoff
	b = le.AppendUint64(b, 0)                                      // e_shoff
	b = le.AppendUint32(b, 0)                                      // e_flags
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {               // e_ehsize, e_phentsize, e_phnum, no sections
		b = le.AppendUint16(b, v)
	}
	size := uint64(headers + len(reaperCode))
	b = le.AppendUint32(b, 1)                                       // p_type: PT_LOAD
	b = le.AppendUint32(b, 5)                                       // p_flags: PF_R|PF_X
	for _, v := range []uint64{0, base, base, size, size, 0x1000} { // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
		b = le.AppendUint64(b, v)
	}
	return append(b, reaperCode...)
}
