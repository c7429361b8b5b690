package abi

// Home is where the virtualization state of an address space is, but for the lookup tables: one region with agent, contexts, the tables
// of the hash and the code cache. It can be anywhere in the user's part of the address space, since what is in it refers
// to the rest by distances.
type Home struct {
	Base      uint64 // of the region, a multiple of PageSize
	CacheSize uint64 // in bytes, a multiple of PageSize
}

// First is the home of a program that was just executed.
// If it has memory there, its home is another one.
var First = Home{Base: 0x4000_0000, CacheSize: MaxCache}

// Offsets in the region. What is there follows each other without a hole, which the guest's memory could get into.
const (
	contexts = AgentSize   // header page, then the contexts: one shared, writable object
	slots    = 0x0100_0000 // context of slot i at slots + i*SlotSize
	hash     = cache - 2*HashSize
	cache    = 0x1000_0000
)

// Table is the address of lookup table J, which table C follows. It is below 2 GiB, so that code can refer to it by a displacement of
// 32 bits, and so are the tables' images of the null page, which must stay unmapped.
const Table = 0x7ffc_0000

// Bounds of the addresses at which the region of a home may be: below LowEnd, in a low home, or from TablesEnd to UserEnd, in a far
// one. Between are the lookup tables of the near zone.
const (
	LowEnd    = Table
	TablesEnd = Table + TableSize
	UserEnd   = 1<<47 - PageSize
)

// End is the end of the region.
func (h Home) End() uint64 { return h.Cache() + h.CacheSize }

// Agent is the address of the agent's code.
func (h Home) Agent() uint64 { return h.Base }

// Contexts is the address of the contexts' header.
func (h Home) Contexts() uint64 { return h.Base + contexts }

// Slot is the address of the context of a slot.
func (h Home) Slot(i int) uint64 { return h.Base + slots + uint64(i)*SlotSize }

// Cache is the address of the code cache.
func (h Home) Cache() uint64 { return h.Base + cache }

// CacheOffset is how far an address is behind the start of the code cache, as translate.Layout has it.
func (h Home) CacheOffset(addr uint64) uint32 { return uint32(addr - h.Cache()) }

// InCache reports whether an address is one of the code cache.
func (h Home) InCache(addr uint64) bool { return addr-h.Cache() < h.CacheSize }

// InAgent reports whether an address is one of the agent.
func (h Home) InAgent(addr uint64) bool { return addr-h.Agent() < AgentSize }

// Hash is the address of the tables of the hash, for jumps and then for calls.
func (h Home) Hash() uint64 { return h.Base + hash }

// Entry is the address of the entry of an original address in lookup table J.
func Entry(addr uint64) uint64 { return Table + EntrySize*addr }
