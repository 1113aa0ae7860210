package uplink

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

var errNeverMade = errors.New("never made")

// memory is an outbox without a disk: what was appended stays until trimmed.
type memory struct {
	mu     sync.Mutex
	epochs map[telemetry.Epoch]*life
	order  []telemetry.Epoch
	commit chan struct{}
	start  time.Time
	keep   uint64 // records kept below the watermark

	trims   func(e telemetry.Epoch, r telemetry.Range) // sees each run before it is given back
	ordinal uint64
	reads   int
	fail    error // returned by Read while set
}

// life is one epoch of a memory.
type life struct {
	recs    map[uint64]telemetry.Record
	lowest  uint64
	durable uint64
	trimmed uint64
	pinned  ranges.Set
}

func newMemory() *memory {
	return &memory{epochs: map[telemetry.Epoch]*life{}, commit: make(chan struct{}), start: time.Now()}
}

func (m *memory) now() telemetry.Instant {
	return telemetry.Instant{Boot: time.Since(m.start), Wall: time.Now().UnixNano()}
}

// begin starts a new epoch, as a new process would.
func (m *memory) begin() telemetry.Epoch {
	m.mu.Lock()
	m.ordinal++
	e := telemetry.Epoch{Ordinal: m.ordinal}
	binary.BigEndian.PutUint64(e.ID[:], m.ordinal*0x9e3779b97f4a7c15)
	start := &telemetry.Start{PreviousClean: true}
	if len(m.order) > 0 {
		start.Previous, start.PreviousLast = m.own(), m.epochs[m.own()].durable
	}
	m.epochs[e] = &life{recs: map[uint64]telemetry.Record{}, lowest: 1}
	m.order = append(m.order, e)
	m.mu.Unlock()
	m.append(telemetry.Record{Kind: telemetry.KindStart, Start: start})
	return e
}

func (m *memory) own() telemetry.Epoch { return m.order[len(m.order)-1] }

// readings appends n readings of size bytes and returns the last seq.
func (m *memory) readings(n, size int) uint64 {
	recs := make([]telemetry.Record, n)
	for i := range recs {
		recs[i] = telemetry.Record{Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Payload: make([]byte, size)}}
	}
	return m.append(recs...)
}

func (m *memory) append(recs ...telemetry.Record) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.epochs[m.own()]
	for _, r := range recs {
		l.durable++
		r.Seq, r.At = l.durable, m.now()
		l.recs[r.Seq] = r
	}
	close(m.commit)
	m.commit = make(chan struct{})
	return l.durable
}

func (m *memory) Epochs() []telemetry.OpenEpoch {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []telemetry.OpenEpoch
	for i, e := range m.order {
		l := m.epochs[e]
		if i == len(m.order)-1 || l.lowest <= l.durable || l.trimmed < l.durable {
			out = append(out, telemetry.OpenEpoch{Epoch: e, Lowest: l.lowest, Durable: l.durable, Trimmed: l.trimmed})
		}
	}
	return out
}

func (m *memory) Read(_ context.Context, e telemetry.Epoch, from uint64, records, bytes int) ([]telemetry.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.fail != nil {
		return nil, m.fail
	}
	l := m.epochs[e]
	if l == nil {
		return nil, nil
	}
	seq := max(from, l.lowest)
	for seq <= l.durable && l.recs[seq].Seq == 0 {
		seq++
	}
	var out []telemetry.Record
	for n := 0; seq <= l.durable && len(out) < records; seq++ {
		r, ok := l.recs[seq]
		if n += weigh([]telemetry.Record{r}); !ok || len(out) > 0 && n > bytes {
			break
		}
		out = append(out, r)
	}
	return out, nil
}

func (m *memory) Wait() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commit
}

func (m *memory) Trim(r telemetry.Receipt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range r.Epochs {
		l := m.epochs[e.Epoch]
		top := e.Watermark
		if n := len(e.Held); n > 0 {
			top = e.Held[n-1].Last
		}
		if l == nil || top > l.durable {
			return fmt.Errorf("%w: %s/%d", errNeverMade, e.Epoch, top)
		}
	}
	for _, e := range r.Epochs {
		m.trim(e.Epoch, e.Watermark)
	}
	return nil
}

func (m *memory) trim(e telemetry.Epoch, to uint64) {
	l := m.epochs[e]
	if to > l.trimmed {
		if m.trims != nil {
			m.trims(e, telemetry.Range{First: l.trimmed + 1, Last: to})
		}
		l.trimmed = to
	}
	l.pinned = l.pinned.Sub(telemetry.Range{First: 1, Last: to})
	floor := l.trimmed - min(l.trimmed, m.keep)
	if len(l.pinned) > 0 {
		floor = min(floor, l.pinned[0].First-1)
	}
	for l.lowest <= floor {
		delete(l.recs, l.lowest)
		l.lowest++
	}
}

func (m *memory) Again(e telemetry.Epoch, r telemetry.Range) error {
	m.mu.Lock()
	l := m.epochs[e]
	if l == nil {
		m.mu.Unlock()
		return fmt.Errorf("%w: %s", errNeverMade, e)
	}
	var missing ranges.Set
	for s := r.First; s <= min(r.Last, l.durable); s++ {
		if _, ok := l.recs[s]; ok {
			l.pinned = l.pinned.Add(telemetry.Range{First: s, Last: s})
			continue
		}
		missing = missing.Add(telemetry.Range{First: s, Last: s})
	}
	m.mu.Unlock()
	for _, x := range missing {
		m.loss(e, x, telemetry.ReasonReceipted)
	}
	return nil
}

func (m *memory) Explain(_ context.Context, l telemetry.Loss) error {
	m.loss(l.Epoch, l.Seqs, l.Reason)
	return nil
}

func (m *memory) loss(e telemetry.Epoch, r telemetry.Range, why telemetry.Reason) {
	m.append(telemetry.Record{Kind: telemetry.KindLoss, Loss: &telemetry.Loss{Epoch: e, Seqs: r, Reason: why}})
}

// drop loses records, as a card does; with a loss record if explained.
func (m *memory) drop(e telemetry.Epoch, r telemetry.Range, explained bool) {
	m.mu.Lock()
	l := m.epochs[e]
	for s := r.First; s <= r.Last; s++ {
		delete(l.recs, s)
	}
	for l.lowest <= l.durable && l.recs[l.lowest].Seq == 0 {
		l.lowest++
	}
	m.mu.Unlock()
	if explained {
		m.loss(e, r, telemetry.ReasonDropped)
	}
}

// codec stands for encoding and signatures: a frame or receipt is a number,
// padded to the size it would have.
type codec struct {
	mu     sync.Mutex
	sealed []sealed
	opened []telemetry.Receipt
	ratio  float64
	before func(h telemetry.Header, size int) // called by the uplink's loop
}

type sealed struct {
	h    telemetry.Header
	recs []telemetry.Record
	size int
}

func (c *codec) seal(h telemetry.Header, recs []telemetry.Record, _ ed25519.PrivateKey) ([]byte, error) {
	size := sealCost + int(float64(weigh(recs))*c.ratio)
	if size > telemetry.MaxFrame {
		return nil, telemetry.ErrFrameTooLarge
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before != nil {
		c.before(h, size)
	}
	c.sealed = append(c.sealed, sealed{h: h, recs: recs, size: size})
	b := make([]byte, size)
	binary.BigEndian.PutUint64(b, uint64(len(c.sealed)))
	return b, nil
}

func (c *codec) frame(b []byte) sealed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sealed[binary.BigEndian.Uint64(b)-1]
}

func (c *codec) receipt(r telemetry.Receipt) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened = append(c.opened, r)
	return binary.BigEndian.AppendUint64(nil, uint64(len(c.opened)))
}

func (c *codec) open(b []byte, agent string, _ ed25519.PublicKey, _ time.Time) (telemetry.Receipt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(b) != 8 {
		return telemetry.Receipt{}, telemetry.ErrReceipt
	}
	r := c.opened[binary.BigEndian.Uint64(b)-1]
	if r.Agent != agent {
		return telemetry.Receipt{}, telemetry.ErrOtherAgent
	}
	return r, nil
}

// cloud is a model of the cloud: a ledger as sets of numbers.
type cloud struct {
	id       string
	ledger   map[telemetry.Epoch]*account
	revision uint64
	window   uint64
	wait     time.Duration
	revoked  bool
	stored   map[telemetry.Epoch]ranges.Set // readings, for ever: what the store holds
	named    []telemetry.Epoch              // since the last receipt; the newest push out the oldest
	again    []telemetry.EpochRange
	rejected []telemetry.Rejection
	refuses  func(e telemetry.Epoch, r telemetry.Record) string

	dry bool // look at no other epochs than the frame's: for ten thousand of them

	saved         map[telemetry.Epoch]*account
	savedRevision uint64
}

// account is the ledger's row of one epoch.
type account struct {
	held, explained ranges.Set
	last            uint64 // as the next epoch's first record says
}

func newCloud() *cloud {
	return &cloud{id: "cloud", ledger: map[telemetry.Epoch]*account{}, window: 1 << 20, stored: map[telemetry.Epoch]ranges.Set{}}
}

func (c *cloud) row(e telemetry.Epoch) *account {
	if c.ledger[e] == nil {
		c.ledger[e] = &account{}
	}
	return c.ledger[e]
}

// name has the next receipt speak of the epoch.
func (c *cloud) name(e telemetry.Epoch) {
	c.named = slices.DeleteFunc(c.named, func(x telemetry.Epoch) bool { return x == e })
	c.named = append(c.named, e)
	c.named = c.named[max(0, len(c.named)-telemetry.MaxEpochs):]
}

// take stores a frame, in one transaction.
func (c *cloud) take(f sealed) {
	defer func() { c.revision++ }()
	c.name(f.h.Epoch)
	for _, o := range f.h.Open {
		c.name(o.Epoch)
	}
	c.ask(f.h)
	if c.refuses != nil {
		for _, r := range f.recs {
			if why := c.refuses(f.h.Epoch, r); why != "" {
				c.rejected = append(c.rejected, telemetry.Rejection{Epoch: f.h.Epoch, Seqs: telemetry.Range{First: f.h.First, Last: f.h.Last}, Reason: why})
				return
			}
		}
	}
	for _, r := range f.recs {
		c.row(f.h.Epoch).held = c.row(f.h.Epoch).held.Add(telemetry.Range{First: r.Seq, Last: r.Seq})
		if r.Kind == telemetry.KindStart && r.Start.PreviousLast > 0 {
			c.row(r.Start.Previous).last = r.Start.PreviousLast
		}
		if r.Kind == telemetry.KindLoss {
			c.row(r.Loss.Epoch).explained = c.row(r.Loss.Epoch).explained.Add(r.Loss.Seqs)
		}
	}
}

// ask wants once more what is missing and, by the device's own word, is not
// going to come by itself: what it trimmed, and epochs that it lists no longer.
func (c *cloud) ask(h telemetry.Header) {
	listed := map[telemetry.Epoch]bool{}
	for _, o := range h.Open {
		listed[o.Epoch] = true
		c.wants(o.Epoch, max(o.Trimmed, o.Lowest-1))
	}
	if c.dry || int(h.OpenTotal) > len(h.Open) {
		return
	}
	for e, a := range c.ledger {
		if !listed[e] {
			c.wants(e, a.last)
		}
	}
}

func (c *cloud) wants(e telemetry.Epoch, upTo uint64) {
	if upTo == 0 {
		return
	}
	for _, r := range c.row(e).all().Missing(telemetry.Range{First: 1, Last: upTo}) {
		c.again = append(c.again, telemetry.EpochRange{Epoch: e, Seqs: r})
	}
}

// all returns what is held or explained.
func (a *account) all() ranges.Set {
	out := a.held
	for _, r := range a.explained {
		out = out.Add(r)
	}
	return out
}

// says returns the account as a receipt has it, and how many ranges are open.
func (a *account) says(e telemetry.Epoch) (telemetry.EpochReceipt, int) {
	all := a.all()
	r := telemetry.EpochReceipt{Epoch: e}
	if len(all) > 0 && all[0].First == 1 {
		r.Watermark, all = all[0].Last, all[1:]
	}
	open := len(all)
	r.Held = append(r.Held, all[:min(open, telemetry.MaxHeld)]...)
	return r, open
}

// receipt says what became of all that was named since the last one.
func (c *cloud) receipt(agent string) telemetry.Receipt {
	r := telemetry.Receipt{
		Cloud: c.id, Agent: agent, Revision: c.revision, Issued: time.Now(), Window: c.window,
		RetryAfter: c.wait, Revoked: c.revoked, Rejected: c.rejected,
	}
	for _, e := range c.named {
		says, _ := c.row(e).says(e)
		r.Epochs = append(r.Epochs, says)
	}
	r.Again = c.again[:min(len(c.again), telemetry.MaxAgain)]
	c.named, c.again, c.rejected = nil, nil, nil
	return r
}

// clone copies the cloud's durable state: a backup.
func (c *cloud) backup() map[telemetry.Epoch]*account {
	out := map[telemetry.Epoch]*account{}
	for e, a := range c.ledger {
		out[e] = &account{held: a.held, explained: a.explained, last: a.last}
	}
	return out
}

// hide takes records off the shelf; the function it returns puts them back.
func (m *memory) hide(e telemetry.Epoch, r telemetry.Range) (back func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	hidden := map[uint64]telemetry.Record{}
	for s := r.First; s <= r.Last; s++ {
		hidden[s] = m.epochs[e].recs[s]
		delete(m.epochs[e].recs, s)
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for s, rec := range hidden {
			m.epochs[e].recs[s] = rec
		}
	}
}
