//go:build linux

package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A file of a store is the header, the front and the records. The header is magic, and of each of the two parts the CRC-32 and the
// length. The front is the length of the build id and this, the program's File, the number of files, and for each its File, the length of
// the linked form of its records and this, and the number of its entries. The records are the entries of all files, one after another: offset and
// record, which begins with its length. All numbers are little-endian, and 64 bits but for those lengths.
const (
	magic      = "xvcode4\n"
	headerSize = len(magic) + 32
	fileSize   = 32 // of a File
)

// suffix is the end of the names of a store's files; what is being written has another one behind it.
const suffix = ".xvcode"

// name is the name of the file of a program.
func (s *Store) name(program File) string {
	sum := fnv.New128a()
	sum.Write(appendFile([]byte(s.build), program))
	return filepath.Join(s.dir, fmt.Sprintf("%x", sum.Sum(nil))+suffix)
}

func appendFile(b []byte, f File) []byte {
	for _, v := range []uint64{f.Dev, f.Ino, uint64(f.Size), uint64(f.MTime)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// load reads the Image of a program, nil if there is none without damage.
func (s *Store) load(program File) *Image {
	if s.dir == "" {
		return nil
	}
	name := s.name(program)
	im, err := s.read(program, name)
	if err == errDamaged {
		os.Remove(name)
	}
	return im // nil with an error
}

var errDamaged = errors.New("store: damaged file")

// read reads an Image: the front of its file, and the records when they are needed.
func (s *Store) read(program File, name string) (*Image, error) {
	fd, size, err := openPrivate(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	head := make([]byte, headerSize)
	if !readAt(fd, head, 0) || string(head[:len(magic)]) != magic {
		return nil, errDamaged
	}
	r := reader{b: head[len(magic):]}
	frontSum, front, lateSum, late := r.word(), r.word(), r.word(), r.word()
	rest := uint64(size) - uint64(headerSize)
	if front > rest || late != rest-front {
		return nil, errDamaged
	}
	data := make([]byte, front)
	if !readAt(fd, data, int64(headerSize)) || uint64(crc32.ChecksumIEEE(data)) != frontSum {
		return nil, errDamaged
	}
	im, err := s.parse(program, data)
	if err != nil {
		return nil, err
	}
	if err := im.postpone(fd, int64(headerSize)+int64(front), int(late), lateSum); err != nil {
		return nil, err
	}
	return im, nil
}

// parse takes the front of a file apart.
func (s *Store) parse(program File, data []byte) (*Image, error) {
	r := reader{b: data}
	if string(r.take(r.count(1))) != s.build || r.file() != program {
		return nil, errDamaged
	}
	im := NewImage()
	for range r.count(fileSize + 16) {
		f := r.file()
		linked := r.take(r.count(1))
		p := im.part(f)
		if p.late = r.word(); p.late > maxEntries {
			return nil, errDamaged
		}
		if len(linked) > 0 {
			im.SetLinked(f, linked)
		}
		im.order = append(im.order, p)
	}
	if r.bad || len(r.b) > 0 {
		return nil, errDamaged
	}
	return im, nil
}

// maxEntries bounds the entries of a file, which take at least 12 bytes each.
const maxEntries = 2 * MaxImage / 12

// late is the records of an Image that were not read: the pages of their part of the file.
type late struct {
	pages []byte // a mapping
	skip  int    // bytes of it before the records
	sum   uint64 // CRC-32 of the records
}

// postpone maps the records at off in a file, to be read when they are needed: most programs that run for a few milliseconds
// don't need them. Damage is found now.
func (im *Image) postpone(fd int, off int64, size int, sum uint64) (err error) {
	l := &late{skip: int(off % int64(os.Getpagesize())), sum: sum}
	l.pages, err = unix.Mmap(fd, off-int64(l.skip), l.skip+size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	if !l.intact(func(b []byte) []byte { return b }) {
		unix.Munmap(l.pages)
		return errDamaged
	}
	im.late = l
	return nil
}

// intact reports whether use returns intact records, of which it is given the pages. The file may be written to, or cut, at
// any time.
func (l *late) intact(use func(records []byte) []byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return uint64(crc32.ChecksumIEEE(use(l.pages[l.skip:]))) == l.sum
}

// read returns a copy of the records, nil if they were damaged since they were postponed.
func (l *late) read() (records []byte) {
	defer unix.Munmap(l.pages)
	if !l.intact(func(b []byte) []byte { records = bytes.Clone(b); return records }) {
		return nil
	}
	return records
}

// complete reads the records that were postponed. Damaged ones are as none.
func (im *Image) complete() {
	im.completing.Do(func() {
		if im.late != nil && !im.fill(im.late.read()) {
			for _, p := range im.order {
				p.entries = nil
			}
		}
	})
}

// fill takes the records of a file apart.
func (im *Image) fill(records []byte) bool {
	r := reader{b: records}
	for _, p := range im.order {
		p.entries = make([]Entry, 0, min(p.late, uint64(len(r.b)/12)))
		for range p.late {
			if r.bad {
				return false
			}
			im.add(p, Entry{Offset: r.word(), Record: r.record()})
		}
	}
	return !r.bad && len(r.b) == 0
}

// reader reads a part of a file. After an error it only gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) word() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// count reads the length of a list whose members take at least size bytes each.
func (r *reader) count(size int) int {
	n := r.word()
	if n > uint64(len(r.b)/size) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) file() File {
	return File{Dev: r.word(), Ino: r.word(), Size: int64(r.word()), MTime: int64(r.word())}
}

func (r *reader) record() []byte {
	if len(r.b) < 4 {
		r.bad, r.b = true, nil
		return nil
	}
	return r.take(int(binary.LittleEndian.Uint32(r.b)))
}

// save writes the Image of a program. Other processes see the old file or the new one.
func (s *Store) save(program File, im *Image) error {
	if s.dir == "" {
		return nil
	}
	front := make([]byte, headerSize)
	front = binary.LittleEndian.AppendUint64(front, uint64(len(s.build)))
	front = append(front, s.build...)
	front = appendFile(front, program)
	front = binary.LittleEndian.AppendUint64(front, uint64(len(im.files)))
	var records []byte
	for f, p := range im.files {
		front = appendFile(front, f)
		front = binary.LittleEndian.AppendUint64(front, uint64(len(p.linked)))
		front = append(front, p.linked...)
		front = binary.LittleEndian.AppendUint64(front, uint64(len(p.entries)))
		for _, e := range p.entries {
			records = binary.LittleEndian.AppendUint64(records, e.Offset)
			records = append(records, e.Record...)
		}
	}
	putHeader(front, records)
	b := append(front, records...)
	s.makeRoom(int64(len(b)))
	return writeFile(s.name(program), b)
}

// putHeader fills in the header of a file, which front begins with.
func putHeader(front, records []byte) {
	copy(front, magic)
	for i, part := range [][]byte{front[headerSize:], records} {
		at := len(magic) + 16*i
		binary.LittleEndian.PutUint64(front[at:], uint64(crc32.ChecksumIEEE(part)))
		binary.LittleEndian.PutUint64(front[at+8:], uint64(len(part)))
	}
}

func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// abandoned is how old a file is that a process was writing when it was killed.
const abandoned = time.Hour

// makeRoom removes the oldest files when the directory would get too large.
func (s *Store) makeRoom(size int64) {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	var infos []fs.FileInfo
	for _, d := range list {
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() && strings.Contains(d.Name(), suffix) {
			infos = append(infos, info)
			size += info.Size()
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano()) })
	for _, info := range infos {
		unfinished := !strings.HasSuffix(info.Name(), suffix)
		if size > maxDir || unfinished && time.Since(info.ModTime()) > abandoned {
			os.Remove(filepath.Join(s.dir, info.Name()))
			size -= info.Size()
		}
	}
}

// private reports, as an error, that others may write to a file or a directory, or have.
func private(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return owned(path, &st)
}

func owned(path string, st *unix.Stat_t) error {
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("store: others than user %d may write to %s", os.Geteuid(), path)
	}
	return nil
}

// openPrivate opens a file that nobody else may have written, and returns its size.
func openPrivate(name string) (fd int, size int64, err error) {
	fd, err = unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, 0, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	case st.Size > 3*MaxImage || st.Size < int64(headerSize):
		err = errDamaged
	default:
		err = owned(name, &st)
	}
	if err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, st.Size, nil
}

// readAt fills p from off on in a file.
func readAt(fd int, p []byte, off int64) bool {
	for len(p) > 0 {
		n, err := unix.Pread(fd, p, off)
		if n <= 0 || err != nil {
			return false
		}
		p, off = p[n:], off+int64(n)
	}
	return true
}

// buildID returns the Go build id of the running program: what another build wrote may have been translated in another way.
var buildID = sync.OnceValues(func() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	if id := goNote(head[:n]); id != "" {
		return id, nil
	}
	return "", errors.New("store: this program has no build id (-ldflags=-buildid=)")
})

// goNote finds the note with the build id at the start of an executable, where the Go linker puts it; "" if there is none.
func goNote(head []byte) string {
	// Elf64_Nhdr: the sizes of name and contents, and the type; ELF_NOTE_GOBUILDID_TAG is 4.
	const header = "\x04\x00\x00\x00Go\x00\x00"
	at := bytes.Index(head, []byte(header))
	if at < 8 || binary.LittleEndian.Uint32(head[at-8:]) != 4 {
		return ""
	}
	size, id := binary.LittleEndian.Uint32(head[at-4:]), head[at+len(header):]
	if uint64(size) > uint64(len(id)) {
		return ""
	}
	return string(id[:size])
}
