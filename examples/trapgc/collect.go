//go:build linux && amd64

package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"xvrun/xv/trap"
)

// An object of the guest: a tag, two pointers to objects or null, and a number.
const (
	objectSize = 32
	objectTag  = 0x2001
	leftField  = 8
	rightField = 16
	valueField = 24
)

const pageSize = 4096

// Registers that hold no pointers to objects, by their number: the stack pointer, and the next free byte.
const (
	rsp = 4
	r15 = 15
)

// heap is the guest's struct of that name: its words in order.
type heap struct {
	From, To, Size, Limit uint64 // two spaces of Size bytes, each with a protected page behind; Limit is the end of From
	Base                  uint64 // of the stack
	Collections           uint64
}

// collector is Cheney's copying collector, for a heap in another process.
type collector struct {
	at    uint64 // address of the guest's struct heap
	check bool

	heap
	ctx       *trap.Context
	err       error    // of reading the guest's memory
	old, next []byte   // the contents of From up to the first free byte, and of To
	have      []bool   // for each piece of old: it was read
	gone      []uint32 // for each object of old: 1 + the offset in next where it has gone
	stack     []byte
}

// pieceSize is how much of the old space is read at once. What holds no live object is never read.
const pieceSize = 4096

var le = binary.LittleEndian

// collect frees the space that the faulting store did not fit in.
func (c *collector) collect(ctx *trap.Context) error {
	if err := c.load(ctx); err != nil {
		return err
	}
	for n := range trap.GeneralNames {
		if r := ctx.General(n); n != rsp && n != r15 {
			*r = c.moved(*r)
		}
	}
	for i := 0; i < len(c.stack); i += 8 {
		le.PutUint64(c.stack[i:], c.moved(le.Uint64(c.stack[i:])))
	}
	for at := 0; at < len(c.next); at += objectSize {
		for _, field := range []int{at + leftField, at + rightField} {
			p := c.moved(le.Uint64(c.next[field:])) // may move next
			le.PutUint64(c.next[field:], p)
		}
	}
	if c.err != nil {
		return c.err
	}
	if c.check {
		if err := c.verify(ctx); err != nil {
			return err
		}
	}
	if uint64(len(c.next)) == c.Size {
		return errors.New("the heap is too small")
	}
	return c.store(ctx)
}

// load reads the guest's heap and stack.
func (c *collector) load(ctx *trap.Context) error {
	var words [48]byte
	if err := ctx.ReadMemory(c.at, words[:]); err != nil {
		return err
	}
	if _, err := binary.Decode(words[:], le, &c.heap); err != nil {
		return err
	}
	if ctx.Addr-c.Limit >= pageSize {
		return fmt.Errorf("%#x is not the end of the space", ctx.Addr)
	}
	used := ctx.R15 - c.From
	if used > c.Size || c.Base-ctx.RSP > 1<<20 {
		return fmt.Errorf("%#x bytes are used, the stack begins at %#x", used, c.Base)
	}
	c.ctx, c.err = ctx, nil
	c.old = resized(c.old, used)
	c.have = resized(c.have, used/pieceSize+1)
	clear(c.have)
	c.gone = resized(c.gone, used/objectSize)
	clear(c.gone)
	c.next = resized(c.next, c.Size)[:0]
	c.stack = resized(c.stack, (c.Base-ctx.RSP)&^7)
	return ctx.ReadMemory(ctx.RSP, c.stack)
}

// resized returns a slice of n elements, in the memory of s if it is large enough.
func resized[T any](s []T, n uint64) []T {
	if uint64(cap(s)) < n {
		return make([]T, n)
	}
	return s[:n]
}

// moved returns where the object that a word points to goes, or the word if it is no pointer.
func (c *collector) moved(word uint64) uint64 {
	at := word - c.From
	if at >= uint64(len(c.old)) {
		return word
	}
	to := &c.gone[at/objectSize]
	if *to == 0 {
		c.need(at / pieceSize)
		*to = 1 + uint32(len(c.next))
		c.next = append(c.next, c.old[at:at+objectSize]...)
	}
	return c.To + uint64(*to-1)
}

// need reads a piece of the old space, if that was not done yet. No object lies in two pieces.
func (c *collector) need(piece uint64) {
	if c.have[piece] {
		return
	}
	c.have[piece] = true
	lo := piece * pieceSize
	hi := min(lo+pieceSize, uint64(len(c.old)))
	if err := c.ctx.ReadMemory(c.From+lo, c.old[lo:hi]); err != nil {
		c.err = err
	}
}

// store writes what has changed to the guest, and exchanges the spaces.
func (c *collector) store(ctx *trap.Context) error {
	if err := ctx.WriteMemory(c.To, c.next); err != nil {
		return err
	}
	if err := ctx.WriteMemory(ctx.RSP, c.stack); err != nil {
		return err
	}
	ctx.R15 = c.To + uint64(len(c.next))
	c.From, c.To = c.To, c.From
	c.Limit = c.From + c.Size
	c.Collections++
	words, err := binary.Append(nil, le, &c.heap)
	if err != nil {
		return err
	}
	return ctx.WriteMemory(c.at, words)
}

// verify walks the new space: every object is one, every field and root points to one, and none points to the old space.
func (c *collector) verify(ctx *trap.Context) error {
	pointer := func(what string, p uint64) error {
		if at := p - c.To; p != 0 && (at >= uint64(len(c.next)) || at%objectSize != 0) {
			return fmt.Errorf("%s: %#x is no object of %d bytes at %#x", what, p, len(c.next), c.To)
		}
		return nil
	}
	root := func(what string, word uint64) error {
		if word-c.From < c.Size {
			return fmt.Errorf("%s: %#x is in the old space", what, word)
		}
		if word-c.To < c.Size {
			return pointer(what, word)
		}
		return nil
	}
	var all error
	for n, name := range trap.GeneralNames {
		if n != rsp && n != r15 {
			all = errors.Join(all, root(name, *ctx.General(n)))
		}
	}
	for i := 0; i < len(c.stack); i += 8 {
		all = errors.Join(all, root(fmt.Sprintf("stack slot %d", i/8), le.Uint64(c.stack[i:])))
	}
	for at := 0; at < len(c.next) && all == nil; at += objectSize {
		o := c.next[at : at+objectSize]
		if le.Uint64(o) != objectTag {
			all = fmt.Errorf("object %d has the tag %#x", at/objectSize, le.Uint64(o))
		}
		value := le.Uint64(o[valueField:])
		for _, field := range []int{leftField, rightField} {
			p := le.Uint64(o[field:])
			if err := pointer(fmt.Sprintf("object %d", at/objectSize), p); err != nil {
				all = err
			} else if p == 0 != (value == 0) || p != 0 && le.Uint64(c.next[p-c.To+valueField:]) != value-1 {
				all = fmt.Errorf("object %d with value %d has a wrong child", at/objectSize, value)
			}
		}
	}
	return all
}
