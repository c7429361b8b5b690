// Deep stacks that grow and shrink, panics through many frames, timers,
// garbage collection while goroutines compute, preempted by signals.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type tree struct {
	left, right *tree
	value       int
}

func (t *tree) insert(v int) *tree {
	if t == nil {
		return &tree{value: v}
	}
	if v < t.value {
		t.left = t.left.insert(v)
	} else {
		t.right = t.right.insert(v)
	}
	return t
}

func (t *tree) sum() int {
	if t == nil {
		return 0
	}
	return t.left.sum() + t.value + t.right.sum()
}

func deep(n int) int {
	var pad [64]byte
	pad[n%64] = byte(n)
	if n == 0 {
		return int(pad[0])
	}
	return deep(n-1) + int(pad[n%64])%2
}

var errDeep = errors.New("deep")

func unwind(n int) {
	defer func() { unwound.Add(1) }()
	if n == 0 {
		panic(errDeep)
	}
	unwind(n - 1)
}

var unwound atomic.Int64

func main() {
	limit := 2 * time.Second
	if len(os.Args) > 1 {
		n, _ := strconv.Atoi(os.Args[1])
		limit = time.Duration(n) * time.Second
	}
	debug.SetGCPercent(20)
	deadline := time.Now().Add(limit)
	var wg sync.WaitGroup
	var bad atomic.Int64
	check := func(ok bool) {
		if !ok {
			bad.Add(1)
		}
	}
	want := sha256.Sum256([]byte(strings.Repeat("x", 1000)))
	for g := range 8 {
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline); i++ {
				switch (g + i) % 5 {
				case 0:
					var t *tree
					for v := range 500 {
						t = t.insert(v * 7919 % 1009)
					}
					s := 0
					for v := range 500 {
						s += v * 7919 % 1009
					}
					check(t.sum() == s)
				case 1:
					check(deep(3000) == 1500)
				case 2:
					func() {
						defer func() { check(recover() == errDeep) }()
						unwind(100)
					}()
				case 3:
					check(sha256.Sum256([]byte(strings.Repeat("x", 1000))) == want)
					m := map[string]int{}
					for k := range 300 {
						m[strconv.Itoa(k)] = k
					}
					keys := make([]string, 0, len(m))
					for k := range m {
						keys = append(keys, k)
					}
					sort.Strings(keys)
					check(keys[17] == "113" && crc32.ChecksumIEEE([]byte(strings.Join(keys, ""))) != 0)
				case 4:
					// No calls: only a signal can stop it for the collector.
					x := uint64(1)
					for range 200000 {
						x = x*6364136223846793005 + 1442695040888963407
					}
					check(x != 0)
				}
			}
		})
	}
	wg.Go(func() {
		for time.Now().Before(deadline) {
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
	})
	ticks := 0
	for time.Now().Before(deadline) {
		time.Sleep(100 * time.Microsecond)
		ticks++
	}
	wg.Wait()
	fmt.Println("bad", bad.Load(), "unwound", unwound.Load() > 0, "ticks", ticks > 10)
}
