package translate

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"xvrun/tests/need"
	"xvrun/xv/x86"
)

// bench prepares the regions of the functions of the C library.
func bench(b *testing.B) (im *image, regions []Region, instrs int) {
	for _, path := range images(b) {
		if filepath.Base(path) == "libc.so.6" {
			im = loadImage(b, path, 0x1000000)
		}
	}
	if im == nil {
		need.Missing(b, "the C library")
	}
	var buf Buffer
	for _, e := range im.entries {
		reg, err := Discover(im, e, ByCall, Limits{})
		if err != nil {
			continue
		}
		f, err := Emit(im, &reg, testBase, &testLayout, &buf)
		if err != nil {
			b.Fatal(err)
		}
		instrs += f.Instrs
		regions = append(regions, reg)
	}
	b.ReportAllocs()
	return im, regions, instrs
}

// perInstr reports the processor time for each instruction, which the load of the machine disturbs less than the
// elapsed time.
func perInstr(b *testing.B, instrs int, start time.Duration) {
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N)/float64(instrs), "cpu-ns/instr")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

func BenchmarkDecode(b *testing.B) {
	im, regions, instrs := bench(b)
	var in x86.Inst
	start := cpuTime(b)
	for b.Loop() {
		for i := range regions {
			for _, blk := range regions[i].Blocks {
				code := im.code[blk.Addr-im.addr:][:blk.Len]
				for len(code) > 0 {
					if x86.Decode(code, &in) != nil {
						b.Fatal("changed")
					}
					code = code[in.Len:]
				}
			}
		}
	}
	perInstr(b, instrs, start)
}

func BenchmarkDiscover(b *testing.B) {
	im, regions, instrs := bench(b)
	start := cpuTime(b)
	for b.Loop() {
		for i := range regions {
			if _, err := Discover(im, regions[i].Entry, ByCall, Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	perInstr(b, instrs, start)
}

func BenchmarkEmit(b *testing.B) {
	im, regions, instrs := bench(b)
	var buf Buffer
	start := cpuTime(b)
	for b.Loop() {
		for i := range regions {
			if _, err := Emit(im, &regions[i], testBase, &testLayout, &buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	perInstr(b, instrs, start)
}

func BenchmarkRecord(b *testing.B) {
	im, regions, instrs := bench(b)
	var buf Buffer
	start := cpuTime(b)
	for b.Loop() {
		for i := range regions {
			if _, err := Record(im, &regions[i], testBase, &testLayout, &buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	perInstr(b, instrs, start)
}
