//go:build linux

package store

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var program = File{Dev: 1, Ino: 2, Size: 3, MTime: 4}

// record makes a record as package tcache does: its length comes first.
func record(n int, fill byte) []byte {
	r := bytes.Repeat([]byte{fill}, n)
	binary.LittleEndian.PutUint32(r, uint32(n))
	return r
}

func sample() *Image {
	im := NewImage()
	libc := File{Dev: 1, Ino: 99, Size: 1 << 40, MTime: -1}
	for i := range 50 {
		im.Add(program, Entry{uint64(i) << 33, record(8+4*i, byte(i))})
		im.Add(libc, Entry{uint64(i), record(4, 0)})
	}
	im.Link(func(list []Entry) []byte { return list[len(list)-1].Record })
	return im
}

func equal(a, b *Image) bool {
	a.complete()
	b.complete()
	if len(a.files) != len(b.files) || a.count != b.count || a.size != b.size {
		return false
	}
	for f := range a.files {
		list, other := a.Entries(f), b.Entries(f)
		if len(list) != len(other) || !bytes.Equal(a.Linked(f), b.Linked(f)) {
			return false
		}
		for i, e := range list {
			if e.Offset != other[i].Offset || !bytes.Equal(e.Record, other[i].Record) {
				return false
			}
		}
	}
	return true
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "store")
	s := open(t, dir)
	if s.Image(program) != nil {
		t.Error("an image out of nothing")
	}
	if err := s.Put(program, sample()); err != nil {
		t.Fatal(err)
	}
	if im := s.Image(program); im == nil || !equal(im, sample()) {
		t.Error("not what was put")
	}
	if im := open(t, dir).Image(program); im == nil || !equal(im, sample()) {
		t.Error("another store of the directory has something else")
	}
	other := program
	other.MTime++
	if open(t, dir).Image(other) != nil {
		t.Error("the image of a changed program")
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	if err := s.Put(program, NewImage()); err != nil {
		t.Fatal(err)
	}
	if im := open(t, dir).Image(program); im.Len() != 0 {
		t.Error("not replaced")
	}
}

func TestMemory(t *testing.T) {
	s := open(t, "")
	if err := s.Put(program, sample()); err != nil || s.Image(program).Len() != 100 {
		t.Errorf("%v, %d records", err, s.Image(program).Len())
	}
}

func TestAddMissing(t *testing.T) {
	a := NewImage()
	a.Add(program, Entry{1, record(4, 0)})
	a.AddMissing(sample())
	a.AddMissing(nil)
	if len(a.Entries(program)) != 1 || a.Len() != 51 {
		t.Errorf("%d records of the program, %d in all", len(a.Entries(program)), a.Len())
	}
	var none *Image
	if none.Len() != 0 || none.Entries(program) != nil {
		t.Error("a nil image has records")
	}
}

// A file with any damage is not used, and goes.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(program, sample()); err != nil {
		t.Fatal(err)
	}
	name := s.name(program)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		bad := bytes.Clone(good)
		switch {
		case i%3 == 0:
			bad = bad[:rnd.IntN(len(bad))]
		case i%3 == 1:
			bad = append(bad, 0)
		default:
			bad[rnd.IntN(len(bad))] ^= byte(1 + rnd.IntN(255))
		}
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if im := open(t, dir).Image(program); im != nil {
			t.Fatalf("damage %d was not noticed", i)
		}
		if _, err := os.Stat(name); err == nil {
			t.Fatalf("damage %d: the file is still there", i)
		}
	}
}

func FuzzParse(f *testing.F) {
	s := &Store{images: map[File]*Image{}, dir: f.TempDir()}
	if err := s.save(program, sample()); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(s.name(program))
	if err != nil {
		f.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(good[len(magic)+8:])
	front, records := good[headerSize:][:n], good[headerSize:][n:]
	im, err := s.parse(program, front)
	if err != nil || !im.fill(records) || !equal(im, sample()) {
		f.Fatal("the sample is not parsed", err)
	}
	f.Add(front, records)
	f.Fuzz(func(t *testing.T, front, records []byte) {
		if im, err := s.parse(program, front); err == nil {
			im.fill(records)
		}
	})
}

// The records of an Image are read late: what happens to its file meanwhile at worst makes them none.
func TestLate(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Put(program, sample()); err != nil {
		t.Fatal(err)
	}
	name := open(t, dir).name(program)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		change func() error
		ok     bool
	}{
		{"nothing", func() error { return nil }, true},
		{"removed", func() error { return os.Remove(name) }, true},
		{"replaced", func() error { return open(t, dir).Put(program, NewImage()) }, true},
		{"written", func() error {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte{good[len(good)-5] ^ 1}, int64(len(good)-5))
				f.Close()
			}
			return err
		}, false},
		{"cut", func() error { return os.Truncate(name, 0) }, false},
	} {
		if err := os.WriteFile(name, good, 0o600); err != nil {
			t.Fatal(err)
		}
		im := open(t, dir).Image(program)
		if im == nil {
			t.Fatalf("%s: no image", c.what)
		}
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		if got := len(im.Entries(program)) > 0; got != c.ok {
			t.Errorf("%s: the image has records: %v", c.what, got)
		}
		if c.ok && !equal(im, sample()) {
			t.Errorf("%s: not what was put", c.what)
		}
		if len(im.Linked(program)) == 0 {
			t.Errorf("%s: no linked form", c.what)
		}
	}
}

func TestOtherBuild(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(program, sample()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.name(program))
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, dir)
	other.build += "x"
	if other.Image(program) != nil {
		t.Error("another build uses the file")
	}
	if _, err := other.parse(program, data[headerSize:]); err == nil {
		t.Error("another build parses the file")
	}
}

func TestPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, "")
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory that others may write to: %v", err)
	}
	if err := s.Put(program, sample()); err != nil {
		t.Errorf("it does not work in memory: %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if err := s.Put(program, sample()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.name(program), 0o666); err != nil {
		t.Fatal(err)
	}
	if open(t, dir).Image(program) != nil {
		t.Error("a file that others may write to is used")
	}
	if err := os.Remove(s.name(program)); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, s.name(program)); err != nil {
		t.Fatal(err)
	}
	if open(t, dir).Image(program) != nil {
		t.Error("a symbolic link is used")
	}
	if _, err := Open(filepath.Join(target, "dir"), ""); err == nil {
		t.Error("a directory below a file")
	}
}

func TestMakeRoom(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	file := func(name string, size int64, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	file("old"+suffix, maxDir/2, 3*time.Hour)
	file("new"+suffix, maxDir/2-100, time.Minute)
	file("left"+suffix+".123", 10, 2*time.Hour)
	file("writing"+suffix+".456", 10, time.Second)
	file("foreign", maxDir, 100*time.Hour)
	s.makeRoom(500)
	for name, there := range map[string]bool{"old" + suffix: false, "new" + suffix: true, "left" + suffix + ".123": false, "writing" + suffix + ".456": true, "foreign": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGoNote(t *testing.T) {
	if id, err := buildID(); err != nil || len(id) < 20 {
		t.Errorf("build id %q, %v", id, err)
	}
	note := "\x04\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00Go\x00\x00abc"
	for head, want := range map[string]string{
		"": "", note: "abc", "xx" + note + "def": "abc", note[4:]: "", note[:len(note)-1]: "", "\x05" + note[1:]: "", strings.Repeat("x", 5000): "",
	} {
		if got := goNote([]byte(head)); got != want {
			t.Errorf("%q: %q, want %q", head, got, want)
		}
	}
}
