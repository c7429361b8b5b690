//go:build linux && amd64

package virt

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/tcache"
	"xvrun/xv/translate"
)

// addressSpace is what the supervisor knows of the memory of one or more processes: where the guest may
// execute, and the translations of that.
type addressSpace struct {
	s *Session

	// mu is held for reading while a miss is answered, and for writing while the code of the address
	// space gets a cache of its own.
	mu     sync.RWMutex
	code   *codeSpace
	closed bool // no process is left

	former   []formerPlace // of the cache, the last one at the end; guarded by mu
	changing atomic.Bool   // calls are about to leave original return addresses: see readsReturns

	unmapped atomic.Bool // the cache is not mapped yet, see mapCache

	rangesMu  sync.RWMutex
	ranges    ranges              // memory that the guest may execute; the kernel's mappings are never executable
	protected map[uint64]struct{} // pages that the guest may write, but were made read-only when translated
	aliases   map[uint64][]uint64 // of a protected page: the pages of code that it is another mapping of
	guardLo   uint64              // see guard; guardHi is 0 if there is no guarded range
	guardHi   uint64
	files     atomic.Bool               // a file, or memory for several processes, was mapped shared
	lockNew   atomic.Bool               // what is mapped is locked (mlockall(2))
	mdwe      atomic.Uint32             // what it must not make executable (PR_SET_MDWE(2const))
	moving    atomic.Bool               // to another home: see relocate
	unpassed  atomic.Bool               // the gate hands off every system call, see unpass
	readExec  atomic.Bool               // what the guest maps readable it may execute (personality(2))
	next      [len(zones)]atomic.Uint64 // where free memory of a zone probably begins; 0: not known

	toggles toggles
	tools   pageTools
	way     way
	room    room

	users atomic.Int32 // processes
}

func (s *Session) newAddressSpace() (*addressSpace, error) {
	code, err := s.newCodeSpace(s.firstHome(), form{native: s.cfg.Returns.native(), hashed: s.cfg.NoTables})
	if err != nil {
		return nil, err
	}
	as := &addressSpace{s: s, code: code, protected: map[uint64]struct{}{}, aliases: map[uint64][]uint64{}}
	as.users.Store(1)
	return as, nil
}

// nearImages is where the search for near addresses starts: a non-PIE and its break have the addresses below.
const nearImages = 0x0800_0000

// fork copies the address space for a process that th makes and that gets a copy of the memory. The translations are
// shared until one of the two changes what it may execute.
func (as *addressSpace) fork(th *thread) *addressSpace {
	th.releaseShared()
	code := as.enter()
	defer as.exit()
	child := &addressSpace{s: as.s, code: code, former: slices.Clone(as.former)}
	child.users.Store(1)
	as.shareCode(child)
	child.inheritMDWE(as)
	child.readExec.Store(as.readExec.Load())
	child.files.Store(as.files.Load())
	child.unpassed.Store(as.unpassed.Load())
	child.tools.inherit(as, child)
	return child
}

// shareCode gives a forked address space the translations, and what is known of the memory that they are from.
func (as *addressSpace) shareCode(child *addressSpace) {
	as.rangesMu.Lock()
	ended := as.endToggles(0, userLimit)
	child.ranges, child.protected, child.aliases = as.ranges.clone(), maps.Clone(as.protected), maps.Clone(as.aliases)
	child.guardLo, child.guardHi = as.guardLo, as.guardHi
	as.code.users.Add(1)
	as.rangesMu.Unlock()
	as.dispose(as.code, ended)
}

// leave is called when a process no longer uses the address space.
func (as *addressSpace) leave() {
	if as.users.Add(-1) == 0 {
		as.mu.Lock() // a handler of a thread that has just died may still be at work
		as.closed = true
		as.giveTogglesBack()
		as.code.leave()
		as.mu.Unlock()
		as.tools.jobs.end()
	}
}

// enter keeps the translations from going away until exit. It panics with gone when they are no more.
func (as *addressSpace) enter() *codeSpace {
	as.mu.RLock()
	if as.closed {
		as.mu.RUnlock()
		panic(gone{})
	}
	return as.code
}

func (as *addressSpace) exit() { as.mu.RUnlock() }

// home is where xv is in the address space.
func (as *addressSpace) home() abi.Home {
	as.mu.RLock()
	defer as.mu.RUnlock()
	return as.code.home
}

func (th *thread) home() abi.Home { return th.p.as.home() }

// executable returns the range that contains addr, if the guest may execute there.
func (as *addressSpace) executable(addr uint64) (codeRange, bool) {
	as.readRanges()
	defer as.rangesMu.RUnlock()
	return as.ranges.find(addr)
}

// codeSpace is a translation cache with its lookup tables. Processes that forked share one while
// they can execute the same.
type codeSpace struct {
	s    *Session
	home abi.Home
	form
	cache    *shared
	tables   *shared
	farMu    sync.RWMutex
	upper    bool   // the tables for the near zone above NearFirst are mapped
	given    uint64 // a bit for each grain of the near zone whose table J has no place: the guest has memory there
	far      []farTable
	covering sync.Mutex // held while far changes; farMu only for the change itself
	space    *tcache.Space
	warm     warmth
	askers   askers
	users    atomic.Int32

	volatile volatileCode
}

// translateAhead is how many bytes of original code a miss translates beyond what it needs: a hand-off
// takes as long as translating 50 to 100 instructions, and not all of them are executed.
const translateAhead = 512

// form is how code is translated; see tcache.Config and translate.Layout.
type form struct {
	native bool // calls leave the return addresses of translated code
	hashed bool // there are no lookup tables but those of the hash
}

func (s *Session) newCodeSpace(home abi.Home, f form) (*codeSpace, error) {
	c := &codeSpace{s: s, home: home, form: f, volatile: newVolatileCode()}
	c.users.Store(1)
	var err error
	if c.cache, err = newShared("xv-cache", int(home.CacheSize), true); err != nil {
		return nil, err
	}
	if c.tables, err = newShared("xv-tables", abi.TableSize, true); err != nil {
		c.cache.close()
		return nil, err
	}
	c.space = tcache.New(c.config())
	return c, nil
}

func (c *codeSpace) config() tcache.Config {
	return tcache.Config{
		Code: c.cache.view, Base: c.home.Cache(), Layout: c.layout(), Slot: c.slot, Budget: translateAhead,
		Volatile: c.volatile.contains, Word: c.volatile.word, Missed: c.asks, Hashed: c.hashed,
	}
}

// asks is tcache.Config.Missed.
func (c *codeSpace) asks(addr uint64) bool { return c.native && c.askers.has(addr) }

// layout is what the code of c must know.
func (c *codeSpace) layout() translate.Layout {
	l := agent.Layout
	l.NativeReturns = c.native
	return l
}

// slot is the table entry of an original address.
func (c *codeSpace) slot(addr uint64, isCall bool) *uint64 {
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	return c.slotOf(addr, isCall)
}

// slotOf is slot for a caller that holds farMu.
func (c *codeSpace) slotOf(addr uint64, isCall bool) *uint64 {
	if addr < translate.HashSize || c.hasNear(addr) && !c.isGiven(addr) {
		if isCall {
			addr += translate.CallBias
			if c.farAt(addr) != nil {
				return nil
			}
		}
		return (*uint64)(unsafe.Pointer(&c.tables.view[abi.EntrySize*addr]))
	}
	return c.farAt(addr).slot(addr, isCall)
}

// dropPages drops the translations of pages.
func (c *codeSpace) dropPages(pages []uint64) {
	for _, page := range pages {
		c.space.Invalidate(page, page+pageSize)
	}
}

// leave is called when an address space no longer uses the cache. The translations are kept in the store.
func (c *codeSpace) leave() {
	if c.users.Add(-1) == 0 {
		if c.space != nil {
			c.keep()
		}
		c.end()
	}
}

// abandon is leave for an address space that goes on with another cache.
func (c *codeSpace) abandon() {
	if c.users.Add(-1) == 0 {
		c.end()
	}
}

// end is called when nobody uses the cache any more.
func (c *codeSpace) end() {
	if c.space != nil {
		c.s.counters.retire(c.space.Stats())
	}
	c.s.mu.Lock()
	last := len(c.s.processes) == 0
	if last {
		c.s.left = append(c.s.left, c)
	}
	c.s.mu.Unlock()
	if !last {
		c.close()
	}
}

func (c *codeSpace) close() {
	c.cache.close()
	c.tables.close()
	for i := range c.far {
		c.far[i].close()
	}
}

// codeReader reads the code of a guest in the address space of one of its threads.
type codeReader struct{ th *thread }

// ReadCode implements tcache.Memory. A page that the guest could write is write-protected first, so
// that no change of it goes unnoticed, unless its code is checked.
func (r codeReader) ReadCode(addr uint64, p []byte) int {
	as := r.th.p.as
	n := 0
	for n < len(p) {
		cr, ok := as.executable(addr + uint64(n))
		if !ok {
			break
		}
		end := min(cr.hi, addr+uint64(len(p)))
		if !r.protect(addr+uint64(n), end, cr) {
			break
		}
		want := p[n : end-addr]
		if !r.th.hasPages(addr+uint64(n), end) {
			break
		}
		got := r.th.read(addr+uint64(n), want)
		n += got
		if got < len(want) {
			break
		}
	}
	return n
}

// protect makes the settled pages of [lo, hi), which lies in cr, read-only. The cache calls it, so that the address space
// is entered.
func (r codeReader) protect(lo, hi uint64, cr codeRange) bool {
	as := r.th.p.as
	for page := lo &^ (pageSize - 1); page < hi; page += pageSize {
		if as.code.volatile.contains(page) {
			continue
		}
		if as.code.volatile.isShared(page) && !as.protectAliases(r.th, page) {
			return false
		}
		if cr.prot&unix.PROT_WRITE != 0 && !as.protect(r.th, page) {
			return false
		}
	}
	return true
}

// read copies guest memory at addr (through the thread that asks: the first of its process may be gone) to p and returns how much could be read.
func (th *thread) read(addr uint64, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	if n := th.peek(addr, b); n == len(b) {
		return n
	}
	// One remote vector fails as a whole on a bad page in its middle: up to the end of the page.
	if first := int(pageSize - addr%pageSize); first < len(b) {
		if n := th.read(addr, b[:first]); n < first {
			return n
		}
		return first + th.read(addr+uint64(first), b[first:])
	}
	return th.readCovered(addr, b)
}

// peek reads by one vector; it returns how much it could read, 0 if that is less than a vector.
func (th *thread) peek(addr uint64, b []byte) int {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
	n, err := unix.ProcessVMReadv(th.tid, local, remote, 0)
	if err != nil {
		return 0
	}
	return n
}

// write copies b to guest memory; it reports whether all of it could be written. The thread waits for the
// answer to its request: what only the kernel's copy on its behalf can do, it does. The address space must
// not be entered.
func (th *thread) write(addr uint64, b []byte) bool {
	if th.poke(addr, b) {
		return true
	}
	last := addr + uint64(len(b)) - 1
	if last < addr || last >= userLimit {
		return false
	}
	th.p.as.unprotectAny(th, addr&^(pageSize-1), last+1)
	if len(b) >= 8 { // a stack grows
		th.remote(call{unix.SYS_RT_SIGPROCMASK, [6]uint64{unix.SIG_BLOCK, 0, addr, 8}})
	}
	return th.poke(addr, b) || th.writeCovered(addr, b)
}

func (th *thread) poke(addr uint64, b []byte) bool {
	if len(b) == 0 {
		return true
	}
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
	n, err := unix.ProcessVMWritev(th.tid, local, remote, 0)
	return err == nil && n == len(b)
}

const pageSize = 4096

// privatize gives the address space a cache of its own if it shares one, before what it may execute
// changes. th is one of its threads. Other threads of it may run meanwhile: the copy has the same bytes
// at the same addresses.
func (as *addressSpace) privatize(th *thread) error {
	as.lockForOther(th)
	defer as.mu.Unlock()
	old := as.code
	if old.users.Load() == 1 {
		return nil
	}
	c, err := old.copy()
	if err != nil {
		return fmt.Errorf("a private translation cache: %w", err)
	}
	if err := th.mapShared(c.parts()...); err != nil {
		c.close()
		return fmt.Errorf("a private translation cache: %w", err)
	}
	as.code = c
	old.leave()
	return nil
}

// forks reports whether a process is being made that has been given the state of this address space, but not yet its memory.
func (as *addressSpace) forks() bool {
	return slices.ContainsFunc(as.s.threadsOf(as), func(th *thread) bool { return th.forking.Load() })
}

// lockForOther locks the address space to give it another cache, when no process is being made with the one that it has.
func (as *addressSpace) lockForOther(th *thread) {
	for {
		as.mu.Lock()
		if as.closed {
			as.mu.Unlock()
			panic(gone{})
		}
		if !as.forks() {
			return
		}
		as.mu.Unlock()
		if th.p.dead.Load() || th.dead.Load() {
			panic(gone{})
		}
		th.server.leave()
		nap(20 * time.Microsecond)
		th.server.enter()
	}
}

// copy makes a cache with tables of the same contents and for the same home.
func (c *codeSpace) copy() (*codeSpace, error) {
	next, err := c.successor(c.home, c.form)
	if err == nil {
		next.space = c.space.Clone(next.config())
	}
	return next, err
}

// rebase makes c the cache of another home. No thread may be in its code.
func (c *codeSpace) rebase(home abi.Home) {
	if c.home == home {
		return
	}
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	c.space.Rebase(home.Cache(), c.slotOf)
	c.home = home
}

// successor makes an empty cache with tables, like those of c but for a home and the form of code.
func (c *codeSpace) successor(home abi.Home, f form) (*codeSpace, error) {
	next, err := c.s.newCodeSpace(home, f)
	if err != nil {
		return nil, err
	}
	next.volatile = c.volatile.clone()
	next.askers.copyFrom(&c.askers)
	if f == c.form {
		next.warm = c.warm.clone()
	}
	if f.hashed {
		return next, nil
	}
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	next.upper, next.given = c.upper, c.given
	if next.far, err = cloneFar(c.far); err != nil {
		next.close()
		return nil, err
	}
	return next, nil
}

// mapCache maps the cache that another supervisor's is replaced by, if that is still to be done. No thread is
// in the old one.
func (th *thread) mapCache() {
	as := th.p.as
	mapped := func() bool {
		as.mu.Lock()
		defer as.mu.Unlock()
		if as.closed {
			panic(gone{})
		}
		if !as.unmapped.Load() {
			return false
		}
		if err := as.code.mapInto(th); err != nil {
			th.p.s.fail(th.p, err)
			panic(gone{})
		}
		as.unmapped.Store(false)
		return true
	}()
	if mapped {
		th.restoreFiles()
	}
}

// mapInto maps cache and tables into the address space of th, over what is there.
func (c *codeSpace) mapInto(th *thread) error {
	return th.mapShared(c.parts()...)
}

// parts is what has to be mapped for cache and tables.
func (c *codeSpace) parts() []mapping { return append(c.regionParts(c.home), c.lookupParts(c.home)...) }

// regionParts is what of it belongs to the region of a home.
func (c *codeSpace) regionParts(home abi.Home) []mapping {
	parts := []mapping{{c.cache, home.Cache(), uint64(len(c.cache.view)), 0, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_FIXED}}
	// The hash has the entries of the null page, which is no place for code.
	for i, call := range []uint64{0, translate.CallBias} {
		parts = append(parts, mapping{c.tables, home.Hash() + uint64(i)*abi.HashSize, abi.HashSize, abi.EntrySize * call, unix.PROT_READ, unix.MAP_FIXED})
	}
	return parts
}

// lookupParts is what of it are the lookup tables.
func (c *codeSpace) lookupParts(home abi.Home) []mapping {
	parts := c.nearParts(unix.MAP_FIXED)
	for _, f := range c.far {
		parts = append(parts, f.parts(home, unix.MAP_FIXED)...)
	}
	return parts
}

// hasNear reports whether the tables for the near zone have entries of an address. The caller holds farMu.
func (c *codeSpace) hasNear(addr uint64) bool {
	return !c.hashed && (addr < abi.NearFirst || addr < abi.NearEnd && c.upper)
}

// nearParts is the parts of the tables for the near zone that are mapped. The caller holds farMu, or is alone.
func (c *codeSpace) nearParts(flags uint64) []mapping {
	if c.hashed {
		return nil
	}
	parts := c.tableParts(abi.NearStart, abi.NearFirst, flags)
	if c.upper {
		parts = append(parts, c.tableParts(abi.NearFirst, abi.NearEnd, flags)...)
	}
	return parts
}

// tableParts is the parts of the tables J and C for a part of the near zone, but for those of C whose places far code has.
func (c *codeSpace) tableParts(lo, hi, flags uint64) []mapping {
	part := func(lo, hi uint64) mapping {
		return mapping{c.tables, abi.Entry(lo), abi.EntrySize * (hi - lo), abi.EntrySize * lo, unix.PROT_READ, flags}
	}
	var parts []mapping
	for at := lo; at < hi; {
		end := hi
		for at < hi && c.isGiven(at) {
			at = at&^(farGrain-1) + farGrain
		}
		for next := at; next < hi; next = next&^(farGrain-1) + farGrain {
			if c.isGiven(next) {
				end = next
				break
			}
		}
		if at < end {
			parts = append(parts, part(at, end))
		}
		at = end
	}
	lo, hi = lo+translate.CallBias, hi+translate.CallBias
	for at := lo; len(c.far) > 0 && at < hi; at = at&^(farGrain-1) + farGrain {
		if c.farAt(at) == nil {
			continue
		}
		if lo < at {
			parts = append(parts, part(lo, at))
		}
		lo = at&^(farGrain-1) + farGrain
	}
	if lo < hi {
		parts = append(parts, part(lo, hi))
	}
	return parts
}

// coverUpper maps the lookup tables for the near zone above NearFirst, where nothing else is. Without
// them indirect branches there trap.
func (th *thread) coverUpper() {
	c := th.p.as.enter()
	defer th.p.as.exit()
	c.covering.Lock()
	defer c.covering.Unlock()
	c.farMu.Lock()
	defer c.farMu.Unlock()
	if c.upper {
		return
	}
	parts := c.tableParts(abi.NearFirst, abi.NearEnd, unix.MAP_FIXED_NOREPLACE)
	for i, p := range parts {
		if err := th.mapShared(p); err != nil {
			th.p.s.trace("%d: tables above %#x: %v", th.tid, uint64(abi.NearFirst), err)
			for _, p := range parts[:i] {
				th.remote(call{unix.SYS_MUNMAP, [6]uint64{p.addr, p.size}})
			}
			return
		}
	}
	c.upper = true
}
