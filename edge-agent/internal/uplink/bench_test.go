package uplink

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// loopback is a broker and a cloud without a database: it opens frames and
// signs receipts for real.
type loopback struct {
	b      *testing.B
	pub    ed25519.PublicKey
	signer telemetry.ReceiptSigner
	up     *Uplink
	held   map[telemetry.Epoch]ranges
	frames chan []byte
	bytes  int
	count  int
	full   chan struct{}
	want   uint64
}

func newLoopback(b *testing.B, key ed25519.PrivateKey) (*loopback, ed25519.PublicKey) {
	root, rootKey, _ := ed25519.GenerateKey(nil)
	pub, signing, _ := ed25519.GenerateKey(nil)
	cert, err := telemetry.NewCertificate(telemetry.RoleReceipt, pub, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), rootKey)
	if err != nil {
		b.Fatal(err)
	}
	return &loopback{
		b: b, pub: key.Public().(ed25519.PublicKey), held: map[telemetry.Epoch]ranges{}, frames: make(chan []byte, 256),
		signer: telemetry.ReceiptSigner{Key: signing, Chain: []telemetry.Certificate{cert}}, full: make(chan struct{}),
	}, root
}

func (l *loopback) Publish(_ context.Context, _ string, data []byte) error {
	l.frames <- data
	return nil
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
			l.held[h.Epoch] = l.held[h.Epoch].add(telemetry.Range{First: h.First, Last: h.Last})
		}
		revision++
		a := account{held: l.held[h.Epoch]}
		says, _ := a.says(h.Epoch)
		r := telemetry.Receipt{Cloud: "c", Agent: h.Agent, Revision: revision, Issued: time.Now(), Window: 8 << 20, Epochs: []telemetry.EpochReceipt{says}}
		b, err := telemetry.EncodeReceipt(r, l.signer)
		if err != nil {
			panic(err)
		}
		if err := l.up.HandleReceipt(b); err != nil {
			panic(err)
		}
		if says.Watermark >= l.want {
			close(l.full)
			l.want = 1 << 63
		}
	}
}

// One reading of 118 bytes from the outbox to its receipt: read, compressed,
// signed, verified, decoded, receipted and trimmed, all on the same cores.
func BenchmarkOutboxToReceipt(b *testing.B) {
	box := newMemory()
	_, key, _ := ed25519.GenerateKey(nil)
	sky, root := newLoopback(b, key)
	box.begin()
	raw := 0
	recs := make([]telemetry.Record, b.N)
	for i := range recs {
		payload := fmt.Appendf(nil, `{"device":"greenhouse-7","seq":%d,"temperature":%.2f,"humidity":%.1f,"battery":%.3f,"status":"nominal","fw":"1.4.2"}`,
			i, 20+float64(i%977)/100, 40+float64(i%311)/10, 3.3+float64(i%97)/1000)
		raw += len(payload)
		recs[i] = telemetry.Record{Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: fmt.Sprintf("site/a/%d", i%16), QoS: 1, Payload: payload}}
	}
	sky.want = box.append(recs...)
	up, err := New(Options{Agent: "pi-1", Key: key, Root: func() ed25519.PublicKey { return root }, Outbox: box, Publisher: sky, Now: box.now})
	if err != nil {
		b.Fatal(err)
	}
	sky.up = up
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
	b.ReportMetric(float64(sky.bytes)/float64(raw), "wire/raw")
	b.ReportMetric(float64(b.N)/float64(sky.count), "readings/frame")
}
