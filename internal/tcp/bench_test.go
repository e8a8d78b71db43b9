package tcp

import "testing"

// BenchmarkTransfer is a lossless transfer in memory: one operation moves 1 MiB through both ends, in runs of up to 64
// KiB, with an acknowledgement for each run. The receiver takes the payload from its buffer, or directly.
func BenchmarkTransfer(b *testing.B) {
	b.Run("buffered", func(b *testing.B) { benchmarkTransfer(b, false) })
	b.Run("direct", func(b *testing.B) { benchmarkTransfer(b, true) })
}

func benchmarkTransfer(b *testing.B, direct bool) {
	o := Options{MSS: 1240, Congestion: fixed(1<<20, 64<<10), SendLimit: 4 << 20, ReceiveLimit: 4 << 20}
	p := connect(o, o)
	p.direct = direct
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		for left := 1 << 20; left > 0; {
			for left > 0 {
				room := min(p.ends[0].Room(), left)
				if room == 0 {
					break
				}
				n := len(p.ends[0].Buffer(room)) // the bytes that happen to be there
				p.ends[0].Commit(p.now, n)
				left -= n
			}
			p.move(0)
			for pieces := p.ends[1].Peek(); len(pieces) > 0; pieces = p.ends[1].Peek() {
				n := 0
				for _, x := range pieces {
					n += len(x)
				}
				p.ends[1].Consume(p.now, n)
			}
			p.move(1)
			p.now += 1000
		}
	}
}
