package uplink

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// loopback is a broker and a cloud without a database: it opens frames and
// signs receipts for real.
type loopback struct {
	t      testing.TB
	pub    ed25519.PublicKey
	signer telemetry.ReceiptSigner
	up     *Uplink
	held   map[telemetry.Epoch]ranges.Set
	frames chan []byte
	bytes  int
	count  int
	mu     sync.Mutex // guards held, up and hears
	hears  bool
	full   chan struct{}
	want   uint64
}

func newLoopback(b testing.TB, key ed25519.PrivateKey) (*loopback, ed25519.PublicKey) {
	root, rootKey, _ := ed25519.GenerateKey(nil)
	pub, signing, _ := ed25519.GenerateKey(nil)
	cert, err := telemetry.NewCertificate(telemetry.RoleReceipt, pub, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), rootKey)
	if err != nil {
		b.Fatal(err)
	}
	return &loopback{
		t: b, pub: key.Public().(ed25519.PublicKey), held: map[telemetry.Epoch]ranges.Set{}, frames: make(chan []byte, 256),
		signer: telemetry.ReceiptSigner{Key: signing, Chain: []telemetry.Certificate{cert}}, full: make(chan struct{}),
	}, root
}

func (l *loopback) Publish(_ context.Context, _ string, data []byte) error {
	l.frames <- data
	return nil
}

// set says whose frames come, and whether the cloud hears them.
func (l *loopback) set(up *Uplink, hears bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.hears = up, hears
}

// run answers each frame with a receipt until all that is wanted is held.
func (l *loopback) run() {
	var revision uint64
	for data := range l.frames {
		l.bytes += len(data)
		l.count++
		f, err := telemetry.ParseFrame(data)
		if err != nil {
			panic(err)
		}
		if err := f.Verify(l.pub); err != nil {
			panic(err)
		}
		h := f.Header
		if h.First > 0 {
			if _, err := f.Records(); err != nil {
				panic(err)
			}
		}
		l.mu.Lock()
		if h.First > 0 && l.hears {
			l.held[h.Epoch] = l.held[h.Epoch].Add(telemetry.Range{First: h.First, Last: h.Last})
		}
		up, hears := l.up, l.hears
		a := account{held: l.held[h.Epoch]}
		l.mu.Unlock()
		if !hears {
			continue
		}
		revision++
		says, _ := a.says(h.Epoch)
		r := telemetry.Receipt{Cloud: "c", Agent: h.Agent, Revision: revision, Issued: time.Now(), Window: 8 << 20, Epochs: []telemetry.EpochReceipt{says}}
		b, err := telemetry.EncodeReceipt(r, l.signer)
		if err != nil {
			panic(err)
		}
		if err := up.HandleReceipt(b); err != nil {
			panic(err)
		}
		if says.Watermark >= l.want {
			close(l.full)
			l.want = 1 << 63
		}
	}
}

// sample returns the i-th reading: 118 bytes of JSON from one of 16 sensors.
func sample(i int) *telemetry.Reading {
	payload := fmt.Appendf(nil, `{"device":"greenhouse-7","seq":%d,"temperature":%.2f,"humidity":%.1f,"battery":%.3f,"status":"nominal","fw":"1.4.2"}`,
		i, 20+float64(i%977)/100, 40+float64(i%311)/10, 3.3+float64(i%97)/1000)
	return &telemetry.Reading{Topic: fmt.Sprintf("site/a/%d", i%16), QoS: 1, Payload: payload}
}

// drain runs an uplink on box until sky holds all that it wants.
func drain(b *testing.B, box Outbox, now func() telemetry.Instant, key ed25519.PrivateKey, sky *loopback, root ed25519.PublicKey) {
	up, err := New(Options{Agent: "pi-1", Key: key, Root: func() ed25519.PublicKey { return root }, Outbox: box, Publisher: sky, Now: now})
	if err != nil {
		b.Fatal(err)
	}
	sky.set(up, true)
	go sky.run()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	b.ReportAllocs()
	b.ResetTimer()
	go func() { defer close(done); _ = up.Run(ctx) }()
	<-sky.full
	b.StopTimer()
	cancel()
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "readings/s")
	b.ReportMetric(float64(sky.bytes)/float64(118*b.N), "wire/raw")
	b.ReportMetric(float64(b.N)/float64(sky.count), "readings/frame")
}

// One reading of 118 bytes from memory to its receipt: compressed, signed,
// verified, decoded, receipted and trimmed, all on the same cores.
func BenchmarkMemoryToReceipt(b *testing.B) {
	box := newMemory()
	_, key, _ := ed25519.GenerateKey(nil)
	sky, root := newLoopback(b, key)
	box.begin()
	recs := make([]telemetry.Record, b.N)
	for i := range recs {
		recs[i] = telemetry.Record{Kind: telemetry.KindReading, Reading: sample(i)}
	}
	sky.want = box.append(recs...)
	drain(b, box, box.now, key, sky, root)
}

// The same from a real outbox on a real disk.
func BenchmarkOutboxToReceipt(b *testing.B) {
	_, key, _ := ed25519.GenerateKey(nil)
	sky, root := newLoopback(b, key)
	box := openOutbox(b, b.TempDir())
	drafts := make([]outbox.Draft, 0, 1000)
	for i := range b.N {
		drafts = append(drafts, outbox.Draft{Reading: sample(i)})
		if len(drafts) == cap(drafts) || i == b.N-1 {
			last, err := box.Append(b.Context(), drafts...)
			if err != nil {
				b.Fatal(err)
			}
			sky.want, drafts = last, drafts[:0]
		}
	}
	drain(b, box, bootTime, key, sky, root)
}
