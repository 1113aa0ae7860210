package uplink

import (
	"math/rand/v2"
	"time"
)

const (
	minTarget   = 4 << 10   // smallest frame aimed at: below it header and signature outweigh the readings
	maxTarget   = 512 << 10 // largest: half of what NATS takes by default, since a guess may miss by as much
	firstTarget = 16 << 10  // before the first receipt; 5 s of a 25 kbit/s link

	carry = 5 * time.Second // what a frame may cost the link: so long waits whoever comes next

	minWindow   = 2 * minTarget
	firstWindow = 64 << 10
	defaultMax  = 4 << 20

	firstRTO = 5 * time.Second // before the first receipt; Dapr, two brokers' hops and a commit fit in
	minRTO   = time.Second     // receipts are coalesced and a commit may wait for a disk
	maxRTO   = time.Minute     // the longest silence before the oldest frame goes once more
)

// window bounds the bytes in flight. It doubles while receipts come, adds a
// frame a round trip above the size where they last stayed out, and halves when
// they stay out. It also measures the link, by receipts alone.
type window struct {
	size  float64 // bytes
	knee  float64 // above it the window grows by addition
	cloud int64   // what the last receipt allows; negative until one said
	max   int64   // configured

	srtt, rttvar time.Duration // from the broker to the receipt; zero before the first sample
	rate         float64       // bytes a second that the cloud confirmed; zero before the first sample
	delivered    uint64        // bytes confirmed since the start
	shrunk       time.Time     // when it last shrank: one loss is one reason
}

func newWindow(limit int64) window {
	return window{size: firstWindow, knee: float64(limit), cloud: -1, max: limit}
}

// limit returns how many bytes may be in flight. One frame may always be.
func (w *window) limit() int64 {
	n := min(int64(w.size), w.max)
	if w.cloud >= 0 {
		n = min(n, w.cloud)
	}
	return n
}

// target returns the size to aim at for a frame: what the link carries in 5 s.
func (w *window) target() int {
	if w.rate == 0 {
		return firstTarget
	}
	return int(min(max(w.rate*carry.Seconds(), minTarget), maxTarget))
}

// grow counts bytes that a receipt covered. A window that was not full proves
// nothing, and stays.
func (w *window) grow(bytes int, full bool) {
	w.delivered += uint64(max(bytes, 0))
	if !full {
		return
	}
	if w.size < w.knee {
		w.size += float64(bytes)
	} else {
		w.size += float64(bytes) * float64(w.target()) / w.size
	}
	w.size = min(w.size, float64(w.max))
}

// shrink halves the window because receipts stayed out, at most once a timeout.
func (w *window) shrink(now time.Time) {
	if !w.shrunk.IsZero() && now.Sub(w.shrunk) < w.rto() {
		return
	}
	w.shrunk = now
	w.knee = max(w.size/2, minWindow)
	w.size = w.knee
	w.rate /= 2
}

// sample takes one flight that has its receipt: how long the cloud took since
// the broker had it, and how many bytes were receipted since it left.
func (w *window) sample(f *flight, now time.Time) {
	if f.tries == 1 && f.state == sent { // of a resent frame nobody knows which copy was answered
		w.round(max(now.Sub(f.takenAt), time.Millisecond))
	}
	took := max(now.Sub(f.sentAt), time.Millisecond)
	rate := float64(w.delivered-f.delivered) / took.Seconds()
	switch {
	case rate >= w.rate:
		w.rate = rate
	case f.limited: // the link was kept busy, so this is what it carries
		w.rate += (rate - w.rate) / 4
	}
}

// restart begins small after an outage: a thousand agents may be back with us,
// and what the link carried before says little.
func (w *window) restart() {
	w.knee = max(w.size, minWindow)
	w.size = min(w.size, firstWindow)
}

// slow notes a Publish of size bytes that failed: if it took long, the link
// carries no more than that. Smaller frames then come through.
func (w *window) slow(size int, took time.Duration) {
	if took >= carry {
		w.rate = min(max(w.rate, firstTarget/carry.Seconds()), float64(size)/took.Seconds())
	}
}

// round takes a sample of the time from broker to receipt, smoothed as in RFC 6298.
func (w *window) round(took time.Duration) {
	if w.srtt == 0 {
		w.srtt, w.rttvar = took, took/2
		return
	}
	w.rttvar += ((w.srtt - took).Abs() - w.rttvar) / 4
	w.srtt += (took - w.srtt) / 8
}

// rto returns how long a receipt may take before it is missed.
func (w *window) rto() time.Duration {
	if w.srtt == 0 {
		return firstRTO
	}
	return min(max(w.srtt+4*w.rttvar, minRTO), maxRTO)
}

// backoff returns a random wait of up to base doubled n times, at most limit.
// Full jitter keeps a thousand agents that lost the same broker apart.
func backoff(r *rand.Rand, base, limit time.Duration, n int) time.Duration {
	d := base
	for ; n > 0 && d < limit; n-- {
		d *= 2
	}
	return time.Duration(r.Int64N(int64(min(d, limit)) + 1))
}
