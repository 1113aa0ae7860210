package link

import (
	"math/rand/v2"
	"net"
	"time"
)

// chunkSize is the most that is carried under one reading of the condition: at
// 1 KiB/s a change takes effect within 4 s, and without a limit one copy of
// 64 KiB is as fast as io.Copy.
const (
	chunkSize     = 64 << 10
	slowChunkSize = 4 << 10
)

// delayed is a piece of the stream and when it may arrive.
type delayed struct {
	data []byte
	due  time.Time
}

// carry copies one direction. A reader and a writer are joined by a short
// queue, so that latency delays the stream without limiting its rate.
func (l *Link) carry(dst, src net.Conn, count *int64) {
	// 64 pieces cover 64 KiB × 64 in flight at any latency that is used here.
	queue := make(chan delayed, 64)
	broken := make(chan struct{}) // the writer gave up
	l.wg.Go(func() { l.read(src, queue, broken) })
	defer close(broken)
	// One end gone ends the connection: half-closed streams are not used by
	// the protocols that are carried here. It ends in order, so that the last
	// words before a goodbye arrive; only a cut throws bytes away.
	defer src.Close()
	defer dst.Close()
	for piece := range queue {
		time.Sleep(time.Until(piece.due))
		if chance := l.condition().Resets; chance > 0 && rand.Float64() < chance {
			hangUp(src)
			hangUp(dst)
			return
		}
		if !l.write(dst, piece.data, count) {
			return
		}
	}
}

func (l *Link) read(src net.Conn, queue chan<- delayed, broken <-chan struct{}) {
	defer close(queue)
	for {
		buf := make([]byte, chunkSize)
		n, err := src.Read(buf)
		if n > 0 {
			select {
			case queue <- delayed{buf[:n], time.Now().Add(l.condition().Latency)}:
			case <-broken:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write passes data on at the rate that the link has now.
func (l *Link) write(dst net.Conn, data []byte, count *int64) bool {
	for len(data) > 0 {
		if !l.pass() {
			return false
		}
		n := len(data)
		if rate := l.condition().BytesPerSecond; rate > 0 {
			n = min(n, slowChunkSize)
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if _, err := dst.Write(data[:n]); err != nil {
			return false
		}
		l.mu.Lock()
		*count += int64(n)
		l.mu.Unlock()
		data = data[n:]
	}
	return true
}

func (l *Link) condition() Condition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cond
}
