//go:build linux

// Package store keeps the translations of programs from one run to the next, and between the processes of one run.
//
// An Image holds the records of the regions (see package tcache) that a program used, of all files that it executes
// code of. A record is used only where the original code is, byte for byte, what the record was made from, so that a File
// only has to lead to records that are worth trying. What the fragments in a store do is trusted like the
// program xvrun itself: a directory is used only if nobody else can write to it, and only by the very build that
// wrote a file.
package store

import (
	"cmp"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// File identifies the contents of a file, as far as its inode tells.
type File struct {
	Dev, Ino uint64
	Size     int64 // bytes
	MTime    int64 // nanoseconds since 1970
}

// FileOf returns the identity of an open or named file from its status.
func FileOf(st *unix.Stat_t) File {
	return File{Dev: st.Dev, Ino: st.Ino, Size: st.Size, MTime: st.Mtim.Nano()}
}

// Entry is the record of one region, whose entry lies at Offset in the file.
type Entry struct {
	Offset uint64
	Record []byte
}

// Image is the records of one program. It must not be changed once it was put into a Store.
type Image struct {
	files map[File]*part
	size  int // bytes of records and their linked forms
	count int

	// Of an Image that was read from a file:
	order      []*part // as in the file
	late       *late   // nil: the records were read
	completing sync.Once
}

// part is the records of one file.
type part struct {
	entries []Entry
	linked  []byte // see SetLinked
	late    uint64 // how many entries were postponed
}

// NewImage returns an empty Image.
func NewImage() *Image { return &Image{files: make(map[File]*part)} }

// Add appends a record. The Image keeps it without a copy.
func (im *Image) Add(f File, e Entry) {
	p := im.part(f)
	p.linked = nil
	im.add(p, e)
}

func (im *Image) add(p *part, e Entry) {
	p.entries = append(p.entries, e)
	im.size += len(e.Record)
	im.count++
}

func (im *Image) part(f File) *part {
	p := im.files[f]
	if p == nil {
		p = new(part)
		im.files[f] = p
	}
	return p
}

// Entries returns the records of a file; nil Images have none. It may have to read them.
func (im *Image) Entries(f File) []Entry {
	if im == nil || im.files[f] == nil {
		return nil
	}
	im.complete()
	return im.files[f].entries
}

// SetLinked adds the linked form (tcache.Link) of all the records that were added of a file, in their order.
func (im *Image) SetLinked(f File, linked []byte) {
	im.part(f).linked = linked
	im.size += len(linked)
}

// Linked returns the linked form of the records of a file, nil if there is none.
func (im *Image) Linked(f File) []byte {
	if im == nil || im.files[f] == nil {
		return nil
	}
	return im.files[f].linked
}

// Link adds the linked forms that are missing; link makes one of the records of a file, or nil.
func (im *Image) Link(link func([]Entry) []byte) {
	for f, p := range im.files {
		if p.linked == nil && im.size < MaxImage {
			im.SetLinked(f, link(p.entries))
		}
	}
}

// Len is the number of records.
func (im *Image) Len() int {
	if im == nil {
		return 0
	}
	im.complete()
	return im.count
}

// AddMissing adds the records of the files that im has none of, as long as the image is not too large.
func (im *Image) AddMissing(from *Image) {
	if from == nil {
		return
	}
	from.complete()
	for f, p := range from.files {
		if im.files[f] == nil && im.size < MaxImage {
			for _, e := range p.entries {
				im.Add(f, e)
			}
			im.SetLinked(f, p.linked)
		}
	}
}

// Bounds, in bytes.
const (
	MaxImage = 64 << 20  // of one program, but that the last file may exceed it
	maxDir   = 512 << 20 // of all files of a directory
)

// Store is a set of Images by program. It is safe for concurrent use, also of a directory by several processes.
type Store struct {
	dir   string // "": in memory only
	build string

	mu     sync.Mutex
	images map[File]*Image // nil: looked for, not there
}

// Open returns the Store of a directory, which is made if it does not exist; with "" nothing is kept when the process
// ends. Only Stores of the same variant use each other's files. An error says why the directory cannot be used; the Store then
// works in memory.
func Open(dir, variant string) (*Store, error) {
	s := &Store{images: make(map[File]*Image)}
	if dir == "" {
		return s, nil
	}
	build, err := buildID()
	if err != nil {
		return s, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, err
	}
	if err := private(dir); err != nil {
		return s, err
	}
	s.dir, s.build = dir, build+variant
	return s, nil
}

// Image returns the Image of a program, nil if there is none that can be used.
func (s *Store) Image(program File) *Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	im, ok := s.images[program]
	if !ok {
		im = s.load(program)
		s.images[program] = im
	}
	return im
}

// Sort puts the records of each file in the order of their offsets, in which the guest's memory is read least often.
func (im *Image) Sort() {
	for _, p := range im.files {
		slices.SortStableFunc(p.entries, func(a, b Entry) int { return cmp.Compare(a.Offset, b.Offset) })
	}
}

// Put makes im the Image of a program. An error says that it could not be written; it then lasts as long as the Store.
func (s *Store) Put(program File, im *Image) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[program] = im
	return s.save(program, im)
}
