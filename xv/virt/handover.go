//go:build linux && amd64

package virt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/seccomp"
	"xvrun/xv/store"
	"xvrun/xv/translate"
)

// A guest's first process may end before its descendants: daemons, background jobs. The process that
// started the guest can then hand them over to another supervisor, and end. The new one gets the objects
// that the guest has mapped, as descriptors, and a record of all that is known of the guest. It begins with
// translation caches of its own, which a process maps at its next request.

// Descriptors of the new supervisor. The record refers to the others by their position behind these.
const (
	recordFD = 3 // the record, a file
	readyFD  = 4 // a pipe: one byte says that the new supervisor has taken over
	firstFD  = 5
)

// record is all that the new supervisor needs to know.
type record struct {
	CacheSize  int
	StoreDir   string
	HighImages bool
	FarRegion  bool
	NoTables   bool
	Returns    Returns
	XFeatures  uint64
	MayLack    bool
	Started    time.Time
	Trace      int // -1: none
	Agent      int
	Contexts   int
	ReaperPipe int
	ReaperPIDs int
	NextSlot   int
	Spaces     []spaceRecord
	Actions    [][65][4]uint64
	Filters    []filterRecord
	Processes  []processRecord
}

type spaceRecord struct {
	Home      abi.Home
	Former    []formerRecord
	Upper     bool
	Given     uint64
	Hashed    bool
	Far       []farRecord
	Ranges    [][3]uint64 // lo, hi, prot
	Protected []uint64
	Aliases   map[uint64][]uint64
	Guard     [2]uint64 // lo, hi
	Volatile  volatileRecord
	Files     bool
	ReadExec  bool
	LockNew   bool
	MDWE      uint32
	Unpassed  bool
	Program   store.File
	Mapped    []fileRecord // files that are mapped as code
}

// formerRecord is a formerPlace. One without sites has those of the place after it.
type formerRecord struct {
	Lo, Hi uint64
	Sites  []translate.Entry
}

type fileRecord struct {
	Lo, Hi, Offset uint64
	File           store.File
}

type filterRecord struct {
	Prev int // of record.Filters, from 1; 0: none
	Prog []seccomp.Inst
}

type processRecord struct {
	PID, PIDFD     int
	Undumpable     bool
	Borrows        bool
	SpaceLimit     [2]uint64
	FilesLimit     uint64
	Space, Actions int
	Threads        []threadRecord
}

type threadRecord struct {
	Slot, TID     int
	AltSP, AltLen uint64
	AltFlags      uint32
	Resuming      [18]uint64 // general registers, rip, rflags
	Waits         bool       // with a request, which is on no list
	Passed, Opens bool
	Call          [7]uint64 // number and arguments
	Strict        bool
	Filter        int // of record.Filters, from 1; 0: none
	Child         int // slot of the thread that it makes, 0: none
	Held          []siginfo
	Op            uint32
	Trap          [3]uint64
	Arrived       bool
	SkipStep      bool
}

var errToolsInUse = errors.New("page tools are in use")

// HandOver makes a program the supervisor of the processes that have outlived the first one; it has to call
// TakeOver. On return that has happened: the session is closed, and the processes are no more this one's
// business. After an error everything is as before; it is os.ErrProcessDone if no process is left.
func (s *Session) HandOver(program string, argv []string) error {
	<-s.ended
	// A return address must not depend on what this supervisor knows of its cache.
	if err := s.leaveNative(); err != nil {
		return err
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	switch {
	case s.closed.Load() || isClosed(s.gone):
		return os.ErrProcessDone
	case !mayTraceStrangers():
		return errors.New("only descendants may be traced (kernel.yama.ptrace_scope)")
	case s.anyNative():
		return fmt.Errorf("%w: a program has just started", errBusy)
	case s.toolsInUse():
		return errToolsInUse
	}
	agent.HandOff(s.agent.view, unix.SYS_BRK) // the new supervisor can't, see countSpace
	s.eachCode((*codeSpace).keep)
	err := s.drain()
	if err == nil && s.toolsInUse() { // one whose start was at work
		err = errToolsInUse
	}
	if err == nil {
		s.deaths.close()
		<-s.deaths.done
		if err = s.handOver(program, argv); err == nil {
			s.part()
			return nil
		}
		err = errors.Join(err, s.watchAgain())
	}
	s.undrain()
	s.trace("handing over: %v", err)
	return err
}

// mayTraceStrangers reports whether the kernel lets a process trace those of its user that are no
// descendants of it, as those that are handed over will be.
func mayTraceStrangers() bool {
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	return err != nil || len(scope) > 0 && scope[0] == '0'
}

// watchAgain replaces the watch for the end of processes, which was closed.
func (s *Session) watchAgain() error {
	d, err := newDeathWatch(s)
	if err != nil {
		return err
	}
	s.deaths = d
	for _, p := range s.alive() {
		if err := d.watch(p); err != nil {
			return err
		}
	}
	return nil
}

// part frees what the session holds but no longer serves.
func (s *Session) part() {
	s.closed.Store(true)
	s.eachCode(func(c *codeSpace) {
		s.counters.retire(c.space.Stats())
		c.close()
	})
	s.mu.Lock()
	for _, p := range s.processes {
		p.dead.Store(true)
		p.as.tools.jobs.end()
		unix.Close(p.pidfd)
	}
	clear(s.processes)
	s.fewer()
	s.mu.Unlock()
	s.reaper.part()
	s.agent.close()
	s.contexts.close()
}

// handOver starts the new supervisor and waits until it has taken over.
func (s *Session) handOver(program string, argv []string) error {
	files := fdList{}
	rec := s.record(&files)
	fd, err := unix.MemfdCreate("xv-record", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), "record")
	defer file.Close()
	if err := json.NewEncoder(file).Encode(rec); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	rd, wr, err := os.Pipe()
	if err != nil {
		return err
	}
	defer rd.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		wr.Close()
		return err
	}
	defer null.Close()
	fds := append([]uintptr{null.Fd(), null.Fd(), null.Fd(), recordFD: file.Fd(), readyFD: wr.Fd()}, files...)
	pid, err := syscall.ForkExec(program, argv, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	wr.Close()
	if err != nil {
		return fmt.Errorf("starting %s: %w", program, err)
	}
	var b [1]byte
	if _, err := rd.Read(b[:]); err != nil {
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, nil, 0, nil)
		return fmt.Errorf("%s has not taken over", program)
	}
	return nil
}

// fdList are the descriptors for the new supervisor.
type fdList []uintptr

// add returns the position of a descriptor.
func (l *fdList) add(fd int) int {
	*l = append(*l, uintptr(fd))
	return len(*l) - 1
}

// record describes the session; it is drained.
func (s *Session) record(files *fdList) *record {
	for _, b := range s.bells { // what the servers have left
		for _, th := range b.queue {
			th.waits.Store(true)
		}
	}
	r := &record{
		CacheSize: s.cfg.CacheSize, StoreDir: s.cfg.StoreDir, HighImages: s.cfg.HighImages, FarRegion: s.cfg.FarRegion, NoTables: s.cfg.NoTables, Returns: s.cfg.Returns, XFeatures: s.xfeatures.Load(), MayLack: s.mayLack.Load(), Started: s.started, Trace: -1, NextSlot: s.nextSlot,
		Agent: files.add(s.agent.fd), Contexts: files.add(s.contexts.fd),
		ReaperPipe: files.add(int(s.reaper.pipe.Fd())), ReaperPIDs: files.add(s.reaper.pids.fd),
	}
	if f, ok := s.cfg.Trace.(*os.File); ok {
		r.Trace = files.add(int(f.Fd()))
	}
	var spaces []*addressSpace
	var actions []*actionTable
	var filters []*seccomp.Filter
	for _, p := range s.alive() {
		if !slices.Contains(spaces, p.as) {
			spaces = append(spaces, p.as)
			r.Spaces = append(r.Spaces, p.as.record())
		}
		if !slices.Contains(actions, p.actions) {
			actions = append(actions, p.actions)
			r.Actions = append(r.Actions, p.actions.record())
		}
		pr := processRecord{
			PID: p.pid, PIDFD: files.add(p.pidfd), Undumpable: p.undumpable.Load(), Borrows: p.borrows,
			Space: slices.Index(spaces, p.as), Actions: slices.Index(actions, p.actions),
		}
		space, files := p.limits.get()
		pr.SpaceLimit, pr.FilesLimit = [2]uint64{space.soft, space.hard}, files
		for th := range p.threads {
			tr := th.record()
			if c := th.confined.Load(); c != nil {
				tr.Strict, tr.Filter = c.strict, r.filter(&filters, c.filter)
			}
			pr.Threads = append(pr.Threads, tr)
		}
		r.Processes = append(r.Processes, pr)
	}
	return r
}

// filter records a filter once, after those before it, and returns its number.
func (r *record) filter(known *[]*seccomp.Filter, f *seccomp.Filter) int {
	if f == nil {
		return 0
	}
	if i := slices.Index(*known, f); i >= 0 {
		return i + 1
	}
	prev := r.filter(known, f.Prev)
	*known = append(*known, f)
	r.Filters = append(r.Filters, filterRecord{prev, f.Prog})
	return len(*known)
}

func (as *addressSpace) record() spaceRecord {
	as.untoggle(as.code, 0, userLimit)
	r := spaceRecord{
		Home: as.code.home, Upper: as.code.upper, Given: as.code.given, Hashed: as.code.hashed, Aliases: as.aliases, Files: as.files.Load(), ReadExec: as.readExec.Load(), LockNew: as.lockNew.Load(),
		MDWE: as.mdwe.Load(), Unpassed: as.unpassed.Load(),
		Ranges: as.ranges.record(), Guard: [2]uint64{as.guardLo, as.guardHi}, Volatile: as.code.volatile.record(),
	}
	for _, f := range as.code.far {
		r.Far = append(r.Far, farRecord{f.lo, f.blocked()})
	}
	for page := range as.protected {
		r.Protected = append(r.Protected, page)
	}
	r.Program = as.code.warm.program
	for _, f := range as.code.warm.files {
		r.Mapped = append(r.Mapped, fileRecord{f.lo, f.hi, f.offset, f.file})
	}
	r.Former = recordFormer(as.former)
	return r
}

// recordFormer describes former places whose sites are known.
func recordFormer(former []formerPlace) (list []formerRecord) {
	for i, f := range former {
		r := formerRecord{Lo: f.lo, Hi: f.hi}
		if i+1 == len(former) || unsafe.SliceData(former[i+1].sites) != unsafe.SliceData(f.sites) {
			r.Sites = f.sites
		}
		list = append(list, r)
	}
	return list
}

func restoreFormer(list []formerRecord) []formerPlace {
	former := make([]formerPlace, len(list))
	sites := []translate.Entry{}
	for i, r := range slices.Backward(list) {
		if r.Sites != nil {
			sites = r.Sites
		}
		former[i] = formerPlace{r.Lo, r.Hi, sites}
	}
	return former
}

func (t *actionTable) record() (r [65][4]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, a := range t.acts {
		r[i] = [4]uint64{a.handler, a.flags, a.restorer, a.mask}
	}
	return r
}

func (th *thread) record() threadRecord {
	r := threadRecord{
		Slot: th.slot, TID: th.tid, Op: th.op, Trap: [3]uint64{th.trap.trap, th.trap.err, th.trap.cr2},
		Arrived: th.arrived, SkipStep: th.skipStep,
		AltSP: th.alt.sp, AltLen: th.alt.size, AltFlags: th.alt.flags,
		Waits: th.waits.Load(), Passed: th.passed != nil, Held: th.held,
	}
	copy(r.Resuming[:], th.resuming.gpr[:])
	r.Resuming[16], r.Resuming[17] = th.resuming.rip, th.resuming.rflags
	if k := th.passed; k != nil {
		r.Opens = k.opens
		r.Call[0] = uint64(k.call.nr)
		copy(r.Call[1:], k.call.args[:])
		if k.child != nil {
			r.Child = k.child.slot
		}
	}
	return r
}

// TakeOver makes this process, which HandOver started, the supervisor of the guest.
func TakeOver() (*Session, error) {
	var r record
	file, ready := os.NewFile(recordFD, "record"), os.NewFile(readyFD, "ready")
	defer file.Close()
	defer ready.Close()
	if err := json.NewDecoder(file).Decode(&r); err != nil {
		return nil, fmt.Errorf("no guest to take over: %w", err)
	}
	s := newSession(&Config{CacheSize: r.CacheSize, StoreDir: r.StoreDir, HighImages: r.HighImages, FarRegion: r.FarRegion, NoTables: r.NoTables, Returns: r.Returns})
	s.started, s.nextSlot = r.Started, r.NextSlot
	s.xfeatures.Store(r.XFeatures)
	s.mayLack.Store(r.MayLack)
	close(s.ended)
	if err := s.restore(&r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.fewer() // they may all have ended meanwhile
	s.mu.Unlock()
	if _, err := ready.Write([]byte{1}); err != nil {
		return nil, err
	}
	s.startServers()
	for _, th := range s.allThreads() {
		if th.waits.Swap(false) {
			s.requeue(th)
		}
	}
	return s, nil
}

// fd is the descriptor at a position of the list that came with the record.
func fd(position int) int {
	n := firstFD + position
	unix.CloseOnExec(n)
	return n
}

func (s *Session) restore(r *record) error {
	if r.Trace >= 0 {
		s.cfg.Trace = os.NewFile(uintptr(fd(r.Trace)), "trace")
	}
	var err error
	if s.store, err = store.Open(r.StoreDir, r.Returns.variant()); err != nil {
		s.trace("translations are not kept: %v", err)
	}
	if s.agent, err = openShared(fd(r.Agent)); err != nil {
		return err
	}
	if s.contexts, err = openShared(fd(r.Contexts)); err != nil {
		return err
	}
	pids, err := openShared(fd(r.ReaperPIDs))
	if err != nil {
		return err
	}
	s.reaper = adoptReaper(pids, os.NewFile(uintptr(fd(r.ReaperPipe)), "reaper"))
	if s.deaths, err = newDeathWatch(s); err != nil {
		return err
	}
	if err = s.hangBells(); err != nil {
		return err
	}
	var spaces []*addressSpace
	for _, sr := range r.Spaces {
		as, err := s.restoreSpace(sr)
		if err != nil {
			return err
		}
		spaces = append(spaces, as)
	}
	var actions []*actionTable
	for _, ar := range r.Actions {
		t := newActionTable()
		for i, a := range ar {
			t.acts[i] = action{a[0], a[1], a[2], a[3]}
		}
		actions = append(actions, t)
	}
	for _, pr := range r.Processes {
		as := spaces[pr.Space]
		as.users.Add(1)
		if err := s.restoreProcess(pr, as, actions[pr.Actions]); err != nil {
			return err
		}
	}
	filters := []*seccomp.Filter{nil}
	for _, f := range r.Filters {
		filters = append(filters, &seccomp.Filter{Prog: f.Prog, Prev: filters[f.Prev]})
	}
	for _, pr := range r.Processes {
		for _, tr := range pr.Threads {
			th := s.slots[tr.Slot]
			if tr.Passed {
				th.passed = &passed{call: call{uintptr(tr.Call[0]), [6]uint64(tr.Call[1:])}, child: s.slots[tr.Child], opens: tr.Opens}
				th.cloning.Store(tr.Child != 0)
			}
			if tr.Strict || tr.Filter != 0 {
				th.confined.Store(&confined{tr.Strict, filters[tr.Filter]})
			}
		}
	}
	for slot := 1; slot < s.nextSlot; slot++ {
		if s.slots[slot] == nil {
			s.free = append(s.free, slot)
		}
	}
	return nil
}

func (s *Session) restoreSpace(r spaceRecord) (*addressSpace, error) {
	code, err := s.newCodeSpace(r.Home, form{hashed: r.Hashed})
	if err != nil {
		return nil, err
	}
	code.upper, code.given, code.volatile = r.Upper, r.Given, r.Volatile.restore()
	for _, f := range r.Far {
		code.far = append(code.far, farTable{lo: f.Lo})
		if f.Blocked {
			continue
		}
		if err := code.far[len(code.far)-1].allocate(); err != nil {
			return nil, err
		}
	}
	if r.Program != (store.File{}) {
		code.warmUp(r.Program)
	}
	for _, f := range r.Mapped {
		code.warm.files = append(code.warm.files, mappedFile{f.Lo, f.Hi, f.File, f.Offset})
	}
	as := &addressSpace{s: s, code: code, former: restoreFormer(r.Former), protected: map[uint64]struct{}{}, aliases: r.Aliases}
	if as.aliases == nil {
		as.aliases = map[uint64][]uint64{}
	}
	as.files.Store(r.Files)
	as.readExec.Store(r.ReadExec)
	as.lockNew.Store(r.LockNew)
	as.mdwe.Store(r.MDWE)
	as.unpassed.Store(r.Unpassed)
	as.unmapped.Store(true)
	as.ranges, as.guardLo, as.guardHi = rangesOf(r.Ranges), r.Guard[0], r.Guard[1]
	for _, page := range r.Protected {
		as.protected[page] = struct{}{}
	}
	return as, nil
}

func (s *Session) restoreProcess(r processRecord, as *addressSpace, actions *actionTable) error {
	p := s.newProcess(r.PID, as, actions)
	p.pidfd = fd(r.PIDFD)
	p.undumpable.Store(r.Undumpable)
	p.borrows = r.Borrows
	p.limits.space, p.limits.files = limit{r.SpaceLimit[0], r.SpaceLimit[1]}, r.FilesLimit
	s.processes[p.pid] = p
	for _, tr := range r.Threads {
		th := s.threadIn(tr.Slot, p, as.home())
		th.tid, th.op, th.trap = tr.TID, tr.Op, trapWords{tr.Trap[0], tr.Trap[1], tr.Trap[2]}
		th.arrived, th.skipStep = tr.Arrived, tr.SkipStep
		th.alt = signalStack{sp: tr.AltSP, flags: tr.AltFlags, size: tr.AltLen}
		copy(th.resuming.gpr[:], tr.Resuming[:])
		th.resuming.rip, th.resuming.rflags = tr.Resuming[16], tr.Resuming[17]
		th.held = tr.Held
		th.away.Store(tr.Passed)
		th.waits.Store(tr.Waits)
		th.runs.Store(!tr.Passed && !tr.Waits)
	}
	s.counters.processes.Add(1)
	return s.deaths.watch(p)
}
