package storetest

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// device is a simulated agent: it makes epochs of records, drops some with loss
// records, and cuts frames anywhere from what it has at the moment.
type device struct {
	rng    *rand.Rand
	name   string
	epochs []*deviceEpoch
	frames []store.Frame
}

type deviceEpoch struct {
	id      telemetry.Epoch
	records []telemetry.Record // seq i+1
	lowest  uint64
}

// sent is when every simulated frame arrives: the order of arrival must not
// matter to anything that a test compares.
var sent = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

func newDevice(rng *rand.Rand, name string) *device {
	d := &device{rng: rng, name: name}
	d.restart()
	return d
}

func (d *device) newest() *deviceEpoch { return d.epochs[len(d.epochs)-1] }

func (e *deviceEpoch) durable() uint64 { return uint64(len(e.records)) }

// restart begins an epoch, as each process does.
func (d *device) restart() {
	e := &deviceEpoch{id: telemetry.Epoch{Ordinal: uint64(len(d.epochs) + 1)}, lowest: 1}
	for i := range e.id.ID {
		e.id.ID[i] = byte(d.rng.Uint32())
	}
	start := &telemetry.Start{Boot: [16]byte{byte(len(d.epochs))}, Version: "test"}
	if len(d.epochs) > 0 {
		start.Previous, start.PreviousLast = d.newest().id, d.newest().durable()
	}
	d.epochs = append(d.epochs, e)
	d.add(telemetry.Record{Kind: telemetry.KindStart, Start: start})
}

func (d *device) add(r telemetry.Record) {
	e := d.newest()
	r.Seq = e.durable() + 1
	r.At = telemetry.Instant{Boot: time.Duration(r.Seq) * time.Second, Wall: sent.Add(-time.Hour).UnixNano() + int64(r.Seq)*1e9}
	e.records = append(e.records, r)
}

func (d *device) read(n int) {
	for range n {
		seq := d.newest().durable() + 1
		payload := fmt.Appendf(nil, "%s/%s/%d", d.name, d.newest().id, seq)
		d.add(telemetry.Record{Kind: telemetry.KindReading, Reading: &telemetry.Reading{
			Topic: fmt.Sprintf("t/%d", d.rng.IntN(5)), QoS: 1, Dup: d.rng.IntN(20) == 0, Payload: payload,
		}})
	}
}

// drop gives up the oldest records of an epoch, with a loss record first.
func (d *device) drop() {
	e := d.epochs[d.rng.IntN(len(d.epochs))]
	if e.lowest > e.durable() {
		return
	}
	upto := e.lowest + d.rng.Uint64N(e.durable()-e.lowest+1)
	// Loss records among them are carried forward, as the design demands.
	var carried []telemetry.Record
	for _, r := range e.records[e.lowest-1 : upto] {
		if r.Loss != nil {
			carried = append(carried, telemetry.Record{Kind: telemetry.KindLoss, Loss: r.Loss})
		}
	}
	d.add(telemetry.Record{Kind: telemetry.KindLoss, Loss: &telemetry.Loss{
		Epoch: e.id, Seqs: telemetry.Range{First: e.lowest, Last: upto}, Reason: telemetry.Reason(1 + d.rng.IntN(3)), Count: upto - e.lowest + 1,
	}})
	for _, r := range carried {
		d.add(r)
	}
	e.lowest = upto + 1
}

// open lists what the device has, its own epoch first, then its newest.
func (d *device) open(own *deviceEpoch) []telemetry.OpenEpoch {
	list := []telemetry.OpenEpoch{{Epoch: own.id, Lowest: own.lowest, Durable: own.durable()}}
	for i := len(d.epochs) - 1; i >= 0 && len(list) < telemetry.MaxOpen; i-- {
		if e := d.epochs[i]; e != own {
			list = append(list, telemetry.OpenEpoch{Epoch: e.id, Lowest: e.lowest, Durable: e.durable()})
		}
	}
	return list
}

// cut makes a frame of any run that is on the device, or an empty one.
func (d *device) cut() {
	e := d.epochs[d.rng.IntN(len(d.epochs))]
	f := store.Frame{Agent: d.name, Epoch: e.id, Open: d.open(e), OpenTotal: uint64(len(d.epochs)), Received: sent}
	if e.lowest <= e.durable() && d.rng.IntN(10) > 0 {
		f.First = e.lowest + d.rng.Uint64N(e.durable()-e.lowest+1)
		f.Last = min(e.durable(), f.First+d.rng.Uint64N(12))
		f.Records = e.records[f.First-1 : f.Last]
	}
	d.frames = append(d.frames, f)
}

// live lets the device do something n times.
func (d *device) live(n int) {
	for range n {
		switch d.rng.IntN(12) {
		case 0:
			d.restart()
		case 1:
			d.drop()
		case 2, 3, 4, 5:
			d.read(1 + d.rng.IntN(8))
		default:
			d.cut()
		}
	}
}

// rest makes frames of everything that is still there.
func (d *device) rest() {
	for _, e := range d.epochs {
		for seq := e.lowest; seq <= e.durable(); seq += 10 {
			last := min(e.durable(), seq+9)
			d.frames = append(d.frames, store.Frame{
				Agent: d.name, Epoch: e.id, First: seq, Last: last, Records: e.records[seq-1 : last], Open: d.open(e), Received: sent,
			})
		}
	}
}

// model is what a cloud has to know after some frames, kept number by number.
type model struct {
	held   map[telemetry.Epoch]map[uint64]*telemetry.Record
	lost   map[telemetry.Epoch]map[uint64]telemetry.Reason
	lowest map[telemetry.Epoch]uint64
	last   map[telemetry.Epoch]uint64 // durable
}

func newModel() *model {
	return &model{
		held: map[telemetry.Epoch]map[uint64]*telemetry.Record{}, lost: map[telemetry.Epoch]map[uint64]telemetry.Reason{},
		lowest: map[telemetry.Epoch]uint64{}, last: map[telemetry.Epoch]uint64{},
	}
}

func (m *model) take(f *store.Frame) {
	for i := range f.Records {
		r := &f.Records[i]
		if m.held[f.Epoch] == nil {
			m.held[f.Epoch] = map[uint64]*telemetry.Record{}
		}
		m.held[f.Epoch][r.Seq] = r
		if r.Loss != nil {
			m.lose(r.Loss)
		}
		if r.Start != nil && r.Start.PreviousLast > 0 {
			m.last[r.Start.Previous] = max(m.last[r.Start.Previous], r.Start.PreviousLast)
		}
	}
	for _, o := range f.Open {
		m.lowest[o.Epoch] = max(m.lowest[o.Epoch], o.Lowest)
		m.last[o.Epoch] = max(m.last[o.Epoch], o.Durable)
	}
}

func (m *model) lose(l *telemetry.Loss) {
	if m.lost[l.Epoch] == nil {
		m.lost[l.Epoch] = map[uint64]telemetry.Reason{}
	}
	for seq := l.Seqs.First; seq <= l.Seqs.Last; seq++ {
		if why, ok := m.lost[l.Epoch][seq]; !ok || l.Reason < why {
			m.lost[l.Epoch][seq] = l.Reason
		}
	}
}

// state says where one number is.
func (m *model) state(e telemetry.Epoch, seq uint64) string {
	if _, ok := m.held[e][seq]; ok {
		return "held"
	}
	if why, ok := m.lost[e][seq]; ok {
		return fmt.Sprintf("lost %d", why)
	}
	switch {
	case m.lowest[e] > 0 && seq < m.lowest[e]:
		return "missing"
	case m.lowest[e] > 0 && seq <= m.last[e]:
		return "on device"
	}
	return ""
}
