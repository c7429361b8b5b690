//go:build linux && amd64

package virt

import (
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/store"
	"xvrun/xv/tcache"
)

// warmth is what a codeSpace needs to begin with the translations of earlier runs of its program, and to keep its own for
// later ones.
type warmth struct {
	program store.File // zero: nothing is kept
	image   *store.Image

	mu    sync.Mutex
	files []mappedFile
}

// mappedFile is a part of a file that is mapped, private and not writable, as code.
type mappedFile struct {
	lo, hi uint64
	file   store.File
	offset uint64 // of lo in the file
}

// openImage looks for the translations of the program that process pid has just executed.
func (c *codeSpace) openImage(pid int) {
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st) != nil {
		return
	}
	c.warmUp(store.FileOf(&st))
}

// warmUp looks for the translations of a program.
func (c *codeSpace) warmUp(program store.File) {
	if c.native != c.s.cfg.Returns.native() || c.hashed {
		return // those in the store are of the other form
	}
	c.warm.program = program
	c.warm.image = c.s.store.Image(program)
}

// readAhead reads the translations of the first program while the kernel executes it. For a script it looks for what is not
// there.
func (s *Session) readAhead() {
	path := s.cfg.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.cfg.Dir, path)
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		s.store.Image(store.FileOf(&st))
	}
}

// mappedCode is called when a part of a file was mapped as code at [lo, hi): it restores the translations that are known of
// it. name is a path of the file for stat(2).
func (th *thread) mappedCode(lo, hi uint64, prot int, name string, inode, offset uint64) {
	if prot&unix.PROT_WRITE != 0 || lo >= hi {
		return
	}
	c := th.p.as.enter()
	defer th.p.as.exit()
	if c.native {
		c.noteAskers(lo, hi, name, offset)
	}
	w := &c.warm
	if w.program == (store.File{}) {
		return
	}
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || inode != 0 && st.Ino != inode {
		return
	}
	f := mappedFile{lo, hi, store.FileOf(&st), offset}
	w.mu.Lock()
	w.files = append(w.files, f)
	w.mu.Unlock()
	th.restoreFile(c, f)
}

// restoreFile restores the translations that are known of the code in f.
func (th *thread) restoreFile(c *codeSpace, f mappedFile) {
	image, origin := c.warm.image, f.lo-f.offset
	restored := 0
	if linked := image.Linked(f.file); linked != nil {
		restored = c.space.RestoreLinked(codeReader{th}, f.lo, f.hi, origin, linked, func(yield func(uint64, []byte) bool) {
			recordsAt(origin, image.Entries(f.file))(yield)
		})
	}
	if restored == 0 {
		// The file may be mapped in parts.
		entries := image.Entries(f.file)
		entries = slices.DeleteFunc(slices.Clone(entries), func(e store.Entry) bool { return e.Offset < f.offset || e.Offset-f.offset >= f.hi-f.lo })
		restored = c.space.Restore(codeReader{th}, recordsAt(origin, entries))
	}
	if th.p.s.cfg.Trace != nil {
		th.p.s.trace("%d: %d regions restored in %#x-%#x", th.tid, restored, f.lo, f.hi)
	}
}

// recordsAt lists the records of a file whose start is at an address.
func recordsAt(origin uint64, entries []store.Entry) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		for _, e := range entries {
			if !yield(origin+e.Offset, e.Record) {
				return
			}
		}
	}
}

// restoreFiles does that for all files of a cache that is empty.
func (th *thread) restoreFiles() {
	c := th.p.as.enter()
	defer th.p.as.exit()
	c.warm.mu.Lock()
	files := c.warm.files
	c.warm.mu.Unlock()
	for _, f := range files {
		th.restoreFile(c, f)
	}
}

// mappedImage is mappedCode for a mapping that the kernel made and that has moved.
func (th *thread) mappedImage(maps []loader.VMA, m loader.Move) {
	for _, v := range maps {
		if v.Start == m.OldStart && v.Inode != 0 && !v.Shared {
			name := fmt.Sprintf("/proc/%d/root%s", th.tid, v.Path)
			th.mappedCode(m.NewStart, m.NewStart+m.OldEnd-m.OldStart, m.Prot, name, v.Inode, v.Offset)
		}
	}
}

// forgetFiles is called when what is mapped in [lo, hi) changes.
func (w *warmth) forgetFiles(lo, hi uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.files[:0]
	for _, f := range w.files {
		if lo >= f.hi || hi <= f.lo {
			kept = append(kept, f)
		}
	}
	w.files = kept
}

// clone copies the state for a codeSpace that is a copy.
func (w *warmth) clone() warmth {
	w.mu.Lock()
	defer w.mu.Unlock()
	return warmth{program: w.program, image: w.image, files: append([]mappedFile(nil), w.files...)}
}

// freshShare is the least share of new records for which a program's image is written again: 1/freshShare.
const freshShare = 16

// keep puts the translations into the store, when enough of them are new.
func (c *codeSpace) keep() {
	w := &c.warm
	if w.program == (store.File{}) {
		return
	}
	w.mu.Lock()
	files := w.files
	w.mu.Unlock()
	fresh, all := 0, 0
	for _, m := range files {
		n, of := c.space.Unsaved(m.lo, m.hi)
		fresh, all = fresh+n, all+of
	}
	if fresh*freshShare < all || fresh == 0 {
		return
	}
	im := store.NewImage()
	for _, m := range files {
		c.space.Save(m.lo, m.hi, func(entry uint64, rec []byte, _ bool) {
			im.Add(m.file, store.Entry{Offset: entry - m.lo + m.offset, Record: rec})
		})
	}
	im.Sort()
	im.AddMissing(w.image)
	im.Link(func(entries []store.Entry) []byte { return tcache.Link(recordsAt(0, entries)) })
	if err := c.s.store.Put(w.program, im); err != nil {
		c.s.trace("keeping translations: %v", err)
	}
}
