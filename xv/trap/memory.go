//go:build !plan9

package trap

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// MemoryError is a failed access to memory of a guest.
type MemoryError struct {
	Addr uint64 // the first address that could not be accessed, of a write that of the buffer
	Err  error  // nil: nothing is mapped there, or its protection does not permit the access
}

func (e *MemoryError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("memory of the guest at %#x: %v", e.Addr, e.Err)
	}
	return fmt.Sprintf("memory of the guest at %#x cannot be accessed", e.Addr)
}

func (e *MemoryError) Unwrap() error { return e.Err }

// ReadMemory reads len(p) bytes of the guest's memory at addr, by the guest's own protections: memory that the host
// watches can be read, a page that the host was not asked to fill yet cannot. Then the error is a
// *MemoryError, and p holds what is before that address.
func (c *Context) ReadMemory(addr uint64, p []byte) error {
	if c.done {
		return ErrDone
	}
	if n := c.thread.ReadMemory(addr, p); n < len(p) {
		return &MemoryError{Addr: addr + uint64(n)}
	}
	return nil
}

// WriteMemory writes p to the guest's memory at addr. What the guest may not write is not written, and the error is a
// *MemoryError; accesses of the host to watched memory are not told. Code may be written where the guest can; it is translated anew.
func (c *Context) WriteMemory(addr uint64, p []byte) error {
	if c.done {
		return ErrDone
	}
	if len(p) == 0 {
		return nil
	}
	return c.thread.WriteMemory(addr, p)
}

// Uint64 reads 8 bytes at addr.
func (c *Context) Uint64(addr uint64) (uint64, error) {
	var b [8]byte
	err := c.ReadMemory(addr, b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// Uint32 reads 4 bytes at addr.
func (c *Context) Uint32(addr uint64) (uint32, error) {
	var b [4]byte
	err := c.ReadMemory(addr, b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

// Uint16 reads 2 bytes at addr.
func (c *Context) Uint16(addr uint64) (uint16, error) {
	var b [2]byte
	err := c.ReadMemory(addr, b[:])
	return binary.LittleEndian.Uint16(b[:]), err
}

// Uint8 reads the byte at addr.
func (c *Context) Uint8(addr uint64) (uint8, error) {
	var b [1]byte
	err := c.ReadMemory(addr, b[:])
	return b[0], err
}

// CString reads the string at addr that a zero byte ends, of at most limit bytes; a longer one is cut there.
func (c *Context) CString(addr uint64, limit int) (string, error) {
	b := make([]byte, limit)
	err := c.ReadMemory(addr, b)
	if i := bytes.IndexByte(b, 0); i >= 0 {
		if e, ok := err.(*MemoryError); !ok || e.Addr > addr+uint64(i) {
			return string(b[:i]), nil
		}
	}
	return string(b), err
}

// SetUint64 writes 8 bytes at addr.
func (c *Context) SetUint64(addr, v uint64) error {
	return c.WriteMemory(addr, binary.LittleEndian.AppendUint64(nil, v))
}

// SetUint32 writes 4 bytes at addr.
func (c *Context) SetUint32(addr uint64, v uint32) error {
	return c.WriteMemory(addr, binary.LittleEndian.AppendUint32(nil, v))
}

// SetUint16 writes 2 bytes at addr.
func (c *Context) SetUint16(addr uint64, v uint16) error {
	return c.WriteMemory(addr, binary.LittleEndian.AppendUint16(nil, v))
}

// SetUint8 writes the byte at addr.
func (c *Context) SetUint8(addr uint64, v uint8) error {
	return c.WriteMemory(addr, []byte{v})
}
