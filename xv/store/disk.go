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
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A file of a store is the header and a payload. The header is magic, the CRC-32 of the payload and the
// payload's length. The payload is the length of the build id and this, the program's File, the number of files, and for each its File, the length of
// the linked form of its records and this, the number of its entries and these: offset and record, which begins with its length. All numbers are little-endian, and 64 bits
// but for those lengths.
const (
	magic      = "xvcode3\n"
	headerSize = len(magic) + 16
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
	data, err := readPrivate(name)
	if err != nil {
		return nil
	}
	im, err := s.parse(program, data)
	if err != nil {
		os.Remove(name)
		return nil
	}
	return im
}

var errDamaged = errors.New("store: damaged file")

// parse takes the contents of a file apart.
func (s *Store) parse(program File, data []byte) (*Image, error) {
	if len(data) < headerSize || string(data[:len(magic)]) != magic {
		return nil, errDamaged
	}
	sum := binary.LittleEndian.Uint64(data[headerSize-16:])
	r := reader{b: data[headerSize:]}
	if binary.LittleEndian.Uint64(data[headerSize-8:]) != uint64(len(r.b)) || sum != uint64(crc32.ChecksumIEEE(r.b)) ||
		string(r.take(r.count(1))) != s.build || r.file() != program {
		return nil, errDamaged
	}
	im := NewImage()
	for range r.count(fileSize + 16) {
		f := r.file()
		linked := r.take(r.count(1))
		n := r.count(12)
		p := im.part(f)
		p.entries = slices.Grow(p.entries, n)
		for range n {
			im.Add(f, Entry{Offset: r.word(), Record: r.record()})
		}
		if len(linked) > 0 {
			im.SetLinked(f, linked)
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errDamaged
	}
	return im, nil
}

// reader reads the payload. After an error it only gives zeros.
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
	b := make([]byte, headerSize, headerSize+im.size+12*im.count+(fileSize+16)*(len(im.files)+4))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s.build)))
	b = append(b, s.build...)
	b = appendFile(b, program)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(im.files)))
	for f, p := range im.files {
		b = appendFile(b, f)
		b = binary.LittleEndian.AppendUint64(b, uint64(len(p.linked)))
		b = append(b, p.linked...)
		b = binary.LittleEndian.AppendUint64(b, uint64(len(p.entries)))
		for _, e := range p.entries {
			b = binary.LittleEndian.AppendUint64(b, e.Offset)
			b = append(b, e.Record...)
		}
	}
	s.header(b)
	s.makeRoom(int64(len(b)))
	return writeFile(s.name(program), b)
}

// header fills in the header of a file.
func (s *Store) header(b []byte) {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[headerSize-16:], uint64(crc32.ChecksumIEEE(b[headerSize:])))
	binary.LittleEndian.PutUint64(b[headerSize-8:], uint64(len(b)-headerSize))
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

// readPrivate reads a file that nobody else may have written.
func readPrivate(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > 2*MaxImage {
		return nil, errDamaged
	}
	if err := owned(name, &st); err != nil {
		return nil, err
	}
	data := make([]byte, st.Size)
	for n := 0; n < len(data); {
		k, err := unix.Pread(fd, data[n:], int64(n))
		if k <= 0 || err != nil {
			return nil, errDamaged
		}
		n += k
	}
	return data, nil
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
