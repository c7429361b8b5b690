// Goroutines, garbage collection and network on the loopback interface.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func main() {
	goroutines()
	collect()
	network()
	recovered()
	signals()
	child()
}

func goroutines() {
	const n = 1000
	var wg sync.WaitGroup
	ch := make(chan int)
	for i := range n {
		wg.Go(func() {
			h := sha256.Sum256([]byte{byte(i)})
			ch <- int(h[0])
		})
	}
	go func() { wg.Wait(); close(ch) }()
	sum := 0
	for v := range ch {
		sum += v
	}
	fmt.Println("goroutines", sum)
}

type node struct{ left, right *node }

func build(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{build(depth - 1), build(depth - 1)}
}

func (n *node) count() int {
	if n.left == nil {
		return 1
	}
	return 1 + n.left.count() + n.right.count()
}

func collect() {
	keep := build(14)
	total := 0
	for range 40 {
		total += build(12).count()
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Println("collect", total, keep.count(), stats.NumGC > 0)
	// A loop without calls is preempted by a signal.
	done := make(chan bool)
	go func() {
		time.Sleep(20 * time.Millisecond)
		runtime.GC()
		close(done)
	}()
	x := 0
	for deadline := time.Now().Add(100 * time.Millisecond); time.Now().Before(deadline); {
		for i := range 1000000 {
			x += i
		}
	}
	<-done
}

func network() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s := bufio.NewScanner(c)
				for s.Scan() {
					fmt.Fprintf(c, "echo %s\n", s.Text())
				}
			}()
		}
	}()
	var wg sync.WaitGroup
	answers := make([]string, 20)
	for i := range answers {
		wg.Go(func() {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				answers[i] = err.Error()
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "%d\n", i)
			answers[i], _ = bufio.NewReader(c).ReadString('\n')
		})
	}
	wg.Wait()
	l.Close()
	fmt.Println("network", answers)
}

func recovered() {
	defer func() { fmt.Println("recovered", recover()) }()
	var p *node
	p.left = nil
}

func signals() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println("signal", <-ch)
}

func child() {
	out, err := exec.Command("/bin/sh", "-c", "echo from a child; exit 3").CombinedOutput()
	fmt.Printf("child %q %v\n", out, err)
}
