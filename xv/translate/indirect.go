package translate

import (
	"slices"

	"xvrun/xv/x86"
)

// IndirectBranches lists the addresses of the indirect branches of a region, returns among them, in order: what Region.Hashed is where no code has
// lookup tables. src gives the code of its blocks.
func IndirectBranches(src Source, r *Region) (list []uint64) {
	var code []byte
	var in x86.Inst
	for i := range r.Blocks {
		blk := &r.Blocks[i]
		code = append(code[:0], make([]byte, blk.Len)...)
		code = code[:src.ReadCode(blk.Addr, code)]
		for at := 0; at < len(code) && x86.Decode(code[at:], &in) == nil; at += int(in.Len) {
			switch classify(&in) {
			case kindRet, kindCallInd, kindJmpInd:
				list = append(list, blk.Addr+uint64(at))
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list) // blocks may overlap
}
