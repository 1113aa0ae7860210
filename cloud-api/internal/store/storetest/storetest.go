// Package storetest is the behaviour that every store.Store has: one suite that
// each database's own test runs.
package storetest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Database is one empty database. Open may be called several times: every store
// it returns works on the same data, and is closed at the end of the test. The
// store's clock is now, and what it received longer ago than the retention (0:
// for ever) is removed by Maintain.
type Database interface {
	Open(t *testing.T, now time.Time, retention time.Duration) store.Store
}

// open opens a database at the time when the frames of these tests arrive.
func open(t *testing.T, db Database) store.Store {
	t.Helper()
	return db.Open(t, sent, 0)
}

// Run holds a store to its behaviour. fresh makes an empty database.
func Run(t *testing.T, fresh func(t *testing.T) Database) {
	tests := map[string]func(*testing.T, Database){
		"AnyOrderEndsTheSame":             anyOrderEndsTheSame,
		"ReplicasNeedNoCoordination":      replicasNeedNoCoordination,
		"OverlapStoresOnlyTheRest":        overlapStoresOnlyTheRest,
		"EverythingIsThereAfterReopen":    everythingIsThereAfterReopen,
		"ReadingsKeepEveryByte":           readingsKeepEveryByte,
		"PagesCoverEverythingOnce":        pagesCoverEverythingOnce,
		"PagesAreBoundedInBytes":          pagesAreBoundedInBytes,
		"FiltersSelect":                   filtersSelect,
		"NewestFirst":                     newestFirst,
		"UnknownAgentStoresNothing":       unknownAgentStoresNothing,
		"QuarantineCountsAsHeld":          quarantineCountsAsHeld,
		"QuarantineGivesWay":              quarantineGivesWay,
		"QuarantineKeepsOnce":             quarantineKeepsOnce,
		"FleetSumsUp":                     fleetSumsUp,
		"SamplesAreBounded":               samplesAreBounded,
		"SeqBeyondReachIsUnstorable":      seqBeyondReachIsUnstorable,
		"TokenWorksOnceAndAgainForItsKey": tokenWorksOnceAndAgainForItsKey,
		"FleetTokenHasUsesAndPrefix":      fleetTokenHasUsesAndPrefix,
		"HoleIsAnAlarmOnlyWhenSettled":    holeIsAnAlarmOnlyWhenSettled,
		"CloneIsAnAlarm":                  cloneIsAnAlarm,
		"RestartIsNoAlarm":                restartIsNoAlarm,
		"WentBackIsAnAlarm":               wentBackIsAnAlarm,
		"NewOutboxIsAnAlarm":              newOutboxIsAnAlarm,
		"TwoSuccessorsAreAnAlarm":         twoSuccessorsAreAnAlarm,
		"FalseClaimsAreAnAlarm":           falseClaimsAreAnAlarm,
		"RestoredBackupIsAnAlarm":         restoredBackupIsAnAlarm,
		"ClosedStoreIsUnavailable":        closedStoreIsUnavailable,
		"TopicsAreListed":                 topicsAreListed,
		"LateAnchorCorrectsTimes":         lateAnchorCorrectsTimes,
		"RetentionExpires":                retentionExpires,
		"ValuesAscendByTime":              valuesAscendByTime,
		"ConfirmedFollowsTheFirstOpen":    confirmedFollowsTheFirstOpen,
		"BacklogIsNoted":                  backlogIsNoted,
		"NewestEpochsHaveTheirTop":        newestEpochsHaveTheirTop,
	}
	maps.Copy(tests, more())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// agent enrols an agent by way of a token.
func agent(t *testing.T, st store.Store, name string) {
	t.Helper()
	token := store.Token{ID: "for-" + name, Agent: name, Uses: 1, Expires: sent.Add(time.Hour)}
	if err := st.CreateToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if err := st.Enrol(t.Context(), token.ID, name, make(ed25519.PublicKey, 32), sent); err != nil {
		t.Fatal(err)
	}
}

func commit(t *testing.T, st store.Store, f store.Frame) store.Result {
	t.Helper()
	r, err := st.Commit(t.Context(), f)
	if err != nil {
		t.Fatalf("commit %s %d-%d: %v", f.Epoch, f.First, f.Last, err)
	}
	return r
}

func epoch(n uint64) telemetry.Epoch { return telemetry.Epoch{Ordinal: n, ID: [8]byte{byte(n)}} }

// frame makes a frame of readings; the payload is the seq.
func frame(name string, e telemetry.Epoch, first, last uint64) store.Frame {
	f := store.Frame{Agent: name, Epoch: e, First: first, Last: last, Received: sent}
	for seq := first; seq <= last && last > 0; seq++ {
		f.Records = append(f.Records, reading(seq, "t/0", fmt.Append(nil, seq)))
	}
	return f
}

func reading(seq uint64, topic string, payload []byte) telemetry.Record {
	return telemetry.Record{
		Seq: seq, Kind: telemetry.KindReading, At: telemetry.Instant{Boot: time.Duration(seq), Wall: sent.UnixNano() + int64(seq)},
		Reading: &telemetry.Reading{Topic: topic, QoS: 1, Payload: payload},
	}
}

// with says what the device has.
func with(f store.Frame, open ...telemetry.OpenEpoch) store.Frame {
	f.Open, f.OpenTotal = open, uint64(len(open))
	return f
}

func all(t *testing.T, st store.Store, q store.Query) []store.Reading {
	t.Helper()
	var out []store.Reading
	if q.Limit == 0 {
		q.Limit = 1000
	}
	for {
		p, err := st.Readings(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Readings) > q.Limit {
			t.Fatalf("page of %d, limit %d", len(p.Readings), q.Limit)
		}
		out = append(out, p.Readings...)
		if p.Next == "" {
			return out
		}
		q.Cursor = p.Next
	}
}

func find(t *testing.T, st store.Store, name string) store.Agent {
	t.Helper()
	a, err := st.Agent(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func alarms(a store.Agent) (kinds []string) {
	for _, l := range a.Alarms {
		kinds = append(kinds, l.Kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// Any order, overlap and repetition of a device's frames ends in the ledger and
// the rows that a model computes number by number, without a false alarm.
func anyOrderEndsTheSame(t *testing.T, db Database) {
	st := open(t, db)
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			d := newDevice(rand.New(rand.NewPCG(seed, 1)), fmt.Sprintf("device-%d", seed))
			agent(t, st, d.name)
			d.live(80)
			frames := append(slices.Clone(d.frames), d.frames[:len(d.frames)/2]...)
			d.rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
			m := newModel()
			for i := range frames {
				commit(t, st, frames[i])
				m.take(&frames[i])
				if i%10 == 0 {
					compare(t, st, d, m)
				}
			}
			compare(t, st, d, m)
			d.frames = nil
			d.rest()
			for i := range d.frames {
				commit(t, st, d.frames[i])
				m.take(&d.frames[i])
			}
			compare(t, st, d, m)
			caughtUp(t, st, d)
		})
	}
}

// caughtUp checks a device that has sent everything: nothing is open, and no
// alarm is left.
func caughtUp(t *testing.T, st store.Store, d *device) {
	t.Helper()
	a := find(t, st, d.name)
	if a.OnDevice != 0 || a.Missing != 0 || a.Unexplained != 0 || len(a.Alarms) != 0 {
		t.Errorf("caught up with %d on the device, %d missing, %d unexplained, alarms %+v", a.OnDevice, a.Missing, a.Unexplained, a.Alarms)
	}
	epochs, err := st.Epochs(t.Context(), d.name, telemetry.Epoch{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range epochs {
		if w := e.Ledger.Watermark(); w != e.Ledger.Device.Durable {
			t.Errorf("epoch %s: watermark %d of %d", e.Epoch, w, e.Ledger.Device.Durable)
		}
	}
}

// compare holds the store's ledgers, sums and rows to the model's.
func compare(t *testing.T, st store.Store, d *device, m *model) {
	t.Helper()
	epochs, err := st.Epochs(t.Context(), d.name, telemetry.Epoch{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var sum store.Totals
	for _, e := range epochs {
		compareEpoch(t, &e, d, m)
		s := e.Ledger.Summary()
		sum.Held += s.Held
		sum.Lost += s.Lost
		sum.OnDevice += s.OnDevice
		sum.Missing += s.Missing
	}
	if a := find(t, st, d.name); a.Totals != sum {
		t.Fatalf("sums %+v, of the epochs %+v", a.Totals, sum)
	}
	want := 0
	for _, recs := range m.held {
		for _, r := range recs {
			if r.Reading != nil {
				want++
			}
		}
	}
	got := all(t, st, store.Query{Agent: d.name, Limit: 97})
	if len(got) != want {
		t.Fatalf("%d readings, want %d", len(got), want)
	}
	for _, r := range got {
		if w := m.held[r.Epoch][r.Seq]; w == nil || w.Reading == nil || !bytes.Equal(w.Reading.Payload, r.Payload) || w.Reading.Topic != r.Topic || w.Reading.Dup != r.Dup {
			t.Fatalf("reading %s %d is not what was sent", r.Epoch, r.Seq)
		}
	}
}

func compareEpoch(t *testing.T, e *store.Epoch, d *device, m *model) {
	t.Helper()
	l := e.Ledger
	var top uint64
	for _, o := range d.epochs {
		if o.id == e.Epoch {
			top = o.durable()
		}
	}
	onDevice, missing := l.OnDevice(), l.Missing()
	for seq := uint64(1); seq <= top+1; seq++ {
		got := ""
		switch {
		case l.Held.Contains(seq):
			got = "held"
		case onDevice.Contains(seq):
			got = "on device"
		case missing.Contains(seq):
			got = "missing"
		}
		for why, s := range l.Lost {
			if s.Contains(seq) {
				got += fmt.Sprintf("lost %d", why)
			}
		}
		if want := m.state(e.Epoch, seq); got != want {
			t.Fatalf("epoch %s seq %d: %q, want %q", e.Epoch, seq, got, want)
		}
	}
}

// Several stores over one database, each given some of the frames at the same
// time, end as one store does.
func replicasNeedNoCoordination(t *testing.T, db Database) {
	stores := []store.Store{open(t, db), open(t, db), open(t, db)}
	d := newDevice(rand.New(rand.NewPCG(7, 7)), "shared")
	agent(t, stores[0], d.name)
	d.live(150)
	d.rest()
	m := newModel()
	var wg sync.WaitGroup
	for i, st := range stores {
		mine := slices.Clone(d.frames) // every replica gets every frame, in an order of its own
		rand.New(rand.NewPCG(uint64(i), 3)).Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		wg.Go(func() {
			for _, f := range mine {
				_, err := st.Commit(context.Background(), f)
				for i := 0; i < 20 && errors.Is(err, store.ErrUnavailable); i++ {
					_, err = st.Commit(context.Background(), f)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range d.frames {
		m.take(&d.frames[i])
	}
	compare(t, stores[0], d, m)
}

// Of a frame that overlaps what is held only the rest is inserted, and the
// result says so.
func overlapStoresOnlyTheRest(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, frame("a", epoch(1), 10, 20))
	r := commit(t, st, frame("a", epoch(1), 5, 30))
	if r.Records != 15 || r.Duplicate != 11 || !slices.Equal(r.Fresh, []telemetry.Range{{First: 5, Last: 9}, {First: 21, Last: 30}}) {
		t.Errorf("result %+v", r)
	}
	again := commit(t, st, frame("a", epoch(1), 5, 30))
	if again.Records != 0 || again.Duplicate != 26 || again.Revision <= r.Revision {
		t.Errorf("repetition: %+v after revision %d", again, r.Revision)
	}
	if a := find(t, st, "a"); a.Readings != 26 || a.Held != 26 {
		t.Errorf("agent %+v", a)
	}
}

// What was answered is there in the next process.
func everythingIsThereAfterReopen(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, with(frame("a", epoch(1), 1, 100), telemetry.OpenEpoch{Epoch: epoch(1), Lowest: 1, Durable: 120}))
	before := find(t, st, "a")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = open(t, db)
	after := find(t, st, "a")
	if before.Held != after.Held || after.OnDevice != 20 || after.Revision != before.Revision || after.Lead != epoch(1) || after.LeadMark != 100 {
		t.Errorf("agent %+v", after)
	}
	if n := len(all(t, st, store.Query{Agent: "a"})); n != 100 {
		t.Errorf("%d readings", n)
	}
}

// Payloads and topics come out as they went in, byte for byte, with their times
// and flags.
func readingsKeepEveryByte(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	f := store.Frame{Agent: "a", Epoch: epoch(1), First: 1, Received: sent}
	topics := []string{"t", "'; DROP TABLE readings; --", "<script>", "ü/ß", string(bytes.Repeat([]byte("x"), telemetry.MaxTopic)), ""}
	payloads := [][]byte{nil, {}, every, []byte("'"), bytes.Repeat([]byte{0}, 300<<10), []byte("{}")}
	for i := range topics {
		r := reading(uint64(i+1), topics[i], payloads[i])
		r.Reading.QoS, r.Reading.Dup, r.Reading.Retained = uint8(i%3), i%2 == 0, i%3 == 0
		f.Records = append(f.Records, r)
	}
	f.Last = uint64(len(f.Records))
	commit(t, st, f)
	for i, r := range all(t, st, store.Query{Agent: "a"}) {
		w := f.Records[i]
		if r.Topic != w.Reading.Topic || !bytes.Equal(r.Payload, w.Reading.Payload) || r.QoS != w.Reading.QoS || r.Dup != w.Reading.Dup || r.Retained != w.Reading.Retained {
			t.Errorf("seq %d differs", r.Seq)
		}
		if r.Recorded != w.At.Wall || r.Received != sent.UnixNano() || r.Agent != "a" || r.Epoch != epoch(1) || r.Seq != w.Seq {
			t.Errorf("seq %d: %+v", r.Seq, r)
		}
	}
}

// Pages of any size, in both directions, cover everything once and in order.
func pagesCoverEverythingOnce(t *testing.T, db Database) {
	st := open(t, db)
	for _, name := range []string{"b", "a", "c"} {
		agent(t, st, name)
		for e := uint64(3); e >= 1; e-- { // arrives newest first
			commit(t, st, frame(name, epoch(e), 1, 40))
		}
	}
	for _, limit := range []int{1, 7, 40, 41, 1000} {
		got := all(t, st, store.Query{Limit: limit})
		if len(got) != 360 || !slices.IsSortedFunc(got, inOrder) {
			t.Errorf("limit %d: %d readings, sorted %t", limit, len(got), slices.IsSortedFunc(got, inOrder))
		}
		down := all(t, st, store.Query{Agent: "b", Limit: limit, Desc: true})
		slices.Reverse(down)
		if len(down) != 120 || !slices.IsSortedFunc(down, inOrder) {
			t.Errorf("limit %d descending: %d readings, sorted %t", limit, len(down), slices.IsSortedFunc(down, inOrder))
		}
	}
	if _, err := st.Readings(t.Context(), store.Query{Limit: 1, Cursor: "!"}); !errors.Is(err, store.ErrCursor) {
		t.Errorf("bad cursor: %v", err)
	}
}

func inOrder(a, b store.Reading) int {
	if a.Agent != b.Agent {
		return cmpText(a.Agent, b.Agent)
	}
	if c := a.Epoch.Compare(b.Epoch); c != 0 {
		return c
	}
	return int(int64(a.Seq) - int64(b.Seq))
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// A page of large payloads is short, and the pages together are everything.
func pagesAreBoundedInBytes(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	const large = 512 << 10
	for seq := uint64(1); seq <= 40; seq++ {
		f := frame("a", epoch(1), seq, seq)
		f.Records[0].Reading.Payload = make([]byte, large)
		commit(t, st, f)
	}
	for _, q := range []store.Query{{Agent: "a", Limit: 1000}, {Agent: "a", Limit: 1000, Desc: true}, {Limit: 1000, Desc: true}} {
		p, err := st.Readings(t.Context(), q)
		if err != nil || len(p.Readings)*large > 16<<20 || len(p.Readings) == 0 {
			t.Errorf("%d readings of 512 KiB in a page, %v", len(p.Readings), err)
		}
		if got := all(t, st, q); q.Agent != "" && len(got) != 40 {
			t.Errorf("%d in all pages", len(got))
		}
	}
}

// Filters by agent, topic with wildcards, time and permission select what they
// say and nothing else.
func filtersSelect(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	agent(t, st, "b")
	f := store.Frame{Agent: "a", Epoch: epoch(1), First: 1, Last: 30, Received: sent}
	for seq := uint64(1); seq <= 30; seq++ {
		f.Records = append(f.Records, reading(seq, []string{"plant/1/temp", "plant/2/temp", "plant/2/hum"}[seq%3], nil))
	}
	commit(t, st, f)
	commit(t, st, frame("b", epoch(1), 1, 5))
	base := sent.UnixNano()
	for _, c := range []struct {
		q    store.Query
		want int
	}{
		{store.Query{}, 35},
		{store.Query{Agent: "a"}, 30},
		{store.Query{Agent: "a", Topic: "plant/2/hum"}, 10},
		{store.Query{Topic: "plant/+/temp"}, 20},
		{store.Query{Topic: "plant/2/#"}, 20},
		{store.Query{Topic: "#"}, 35},
		{store.Query{Topic: "nothing"}, 0},
		{store.Query{Agent: "a", From: base + 11}, 20},
		{store.Query{Agent: "a", To: base + 11}, 10},
		{store.Query{From: base + 3, To: base + 5}, 4},
		{store.Query{Allow: func(a string) bool { return a == "b" }}, 5},
	} {
		c.q.Limit = 8
		if got := all(t, st, c.q); len(got) != c.want {
			t.Errorf("%+v: %d readings, want %d", c.q, len(got), c.want)
		}
	}
	if _, err := st.Readings(t.Context(), store.Query{Agent: "nobody", Limit: 1}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown agent: %v", err)
	}
}

// Without an agent, newest first means what was received last, from everyone.
func newestFirst(t *testing.T, db Database) {
	st := open(t, db)
	for i, name := range []string{"a", "b"} {
		agent(t, st, name)
		f := frame(name, epoch(1), 1, 10)
		f.Received = sent.Add(time.Duration(i) * time.Second)
		commit(t, st, f)
	}
	p, err := st.Readings(t.Context(), store.Query{Desc: true, Limit: 12})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Readings) != 12 || p.Readings[0].Agent != "b" || p.Readings[0].Seq != 10 || p.Readings[11].Agent != "a" || p.Readings[11].Seq != 9 {
		t.Errorf("%+v", p.Readings)
	}
	// Who may see some finds their newest behind any number of others'.
	for i := range 60 {
		name := fmt.Sprintf("busy-%d", i)
		agent(t, st, name)
		f := frame(name, epoch(1), 1, 1)
		f.Received = sent.Add(time.Minute)
		commit(t, st, f)
	}
	p, err = st.Readings(t.Context(), store.Query{Desc: true, Limit: 5, Allow: func(agent string) bool { return agent == "a" }})
	if err != nil || len(p.Readings) != 5 || p.Readings[0].Agent != "a" || p.Readings[0].Seq != 10 {
		t.Errorf("of a alone: %+v, %v", p.Readings, err)
	}
}

// A frame of an agent that was never enrolled stores nothing.
func unknownAgentStoresNothing(t *testing.T, db Database) {
	st := open(t, db)
	if _, err := st.Commit(t.Context(), frame("nobody", epoch(1), 1, 3)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("commit: %v", err)
	}
	if _, err := st.Agent(t.Context(), "nobody"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("agent: %v", err)
	}
	if got := all(t, st, store.Query{}); len(got) != 0 {
		t.Errorf("%d readings", len(got))
	}
}

// A frame that cannot be stored as records is kept raw, and its seqs count as
// held in receipts.
func quarantineCountsAsHeld(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	f := frame("a", epoch(1), 1, 10)
	f.Records, f.Raw, f.Why = nil, []byte("raw frame"), "body does not open"
	commit(t, st, f)
	r, err := st.Receipt(t.Context(), "a", []telemetry.Epoch{epoch(1), epoch(9)})
	if err != nil || len(r.Epochs) != 1 || r.Epochs[0].Ledger.Watermark() != 10 {
		t.Fatalf("receipt %+v, %v", r, err)
	}
	list, err := st.Quarantine(t.Context(), 0, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	q, err := st.QuarantinedFrame(t.Context(), list[0].ID)
	if err != nil || string(q.Raw) != "raw frame" || !q.Trusted || q.Agent != "a" || q.Epoch != epoch(1) || q.Seqs != (telemetry.Range{First: 1, Last: 10}) || q.Why != f.Why {
		t.Errorf("%+v, %v", q, err)
	}
	if _, err := st.QuarantinedFrame(t.Context(), 1<<40); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown id: %v", err)
	}
}

// Records that can be stored take the place of quarantined seqs.
func quarantineGivesWay(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	bad := frame("a", epoch(1), 1, 10)
	bad.Records, bad.Raw, bad.Why = nil, []byte("raw"), "broken"
	commit(t, st, bad)
	if r := commit(t, st, frame("a", epoch(1), 4, 6)); r.Records != 3 {
		t.Errorf("%+v", r)
	}
	if a := find(t, st, "a"); a.Held != 3 || a.Quarantined != 7 {
		t.Errorf("%+v", a)
	}
	commit(t, st, bad) // comes again: what is held stays held
	if a := find(t, st, "a"); a.Held != 3 || a.Quarantined != 7 {
		t.Errorf("%+v", a)
	}
}

// A frame that cannot be stored is kept once however often it comes; one that
// claims a seq beside those that are kept is kept too.
func quarantineKeepsOnce(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	for _, last := range []uint64{10, 10, 4, 11, 10} {
		bad := frame("a", epoch(1), 1, last)
		bad.Records, bad.Raw, bad.Why = nil, []byte("raw"), "broken"
		commit(t, st, bad)
	}
	list, err := st.Quarantine(t.Context(), 0, 10)
	if err != nil || len(list) != 2 || list[0].Seqs.Last != 11 || list[1].Seqs.Last != 10 {
		t.Errorf("%+v, %v", list, err)
	}
	if a := find(t, st, "a"); a.Quarantined != 11 {
		t.Errorf("%+v", a)
	}
}

// The fleet is the sum of its agents, with the alarms that stand.
func fleetSumsUp(t *testing.T, db Database) {
	st := open(t, db)
	if f, err := st.Fleet(t.Context()); err != nil || f.Agents != 0 || f.Totals != (store.Totals{}) || len(f.Alarms) != 0 {
		t.Errorf("of nobody: %+v, %v", f, err)
	}
	for _, name := range []string{"a", "b", "c"} {
		agent(t, st, name)
	}
	at := epoch(1)
	commit(t, st, with(frame("a", at, 1, 5), telemetry.OpenEpoch{Epoch: at, Lowest: 1, Durable: 8}))
	commit(t, st, with(frame("b", at, 1, 2), telemetry.OpenEpoch{Epoch: at, Lowest: 1, Durable: 2}))
	commit(t, st, with(frame("b", at, 6, 6), telemetry.OpenEpoch{Epoch: at, Lowest: 6, Durable: 6}))
	commit(t, st, with(frame("a", at, 1, 5), telemetry.OpenEpoch{Epoch: at, Lowest: 9, Durable: 3})) // cannot be
	if err := st.Revoke(t.Context(), "c", sent); err != nil {
		t.Fatal(err)
	}
	f, err := st.Fleet(t.Context())
	if err != nil || f.Agents != 3 || f.Revoked != 1 || f.Totals != (store.Totals{Held: 8, OnDevice: 3, Missing: 3}) || f.Unexplained != 3 {
		t.Errorf("%+v, %v", f, err)
	}
	if !maps.Equal(f.Alarms, map[string]uint64{store.AlarmHole: 1, store.AlarmClaims: 1}) {
		t.Errorf("alarms %v", f.Alarms)
	}
}

// Rejected events leave a bounded number of bounded samples and push out no
// quarantined frame.
func samplesAreBounded(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	kept := frame("a", epoch(1), 1, 1)
	kept.Records, kept.Raw, kept.Why = nil, []byte("raw"), "broken"
	commit(t, st, kept)
	for i := range Samples + 20 {
		if err := st.Reject(t.Context(), store.Rejected{Agent: "<b>" + fmt.Sprint(i), Why: "no", Raw: make([]byte, 1<<20), Received: sent}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := st.Quarantine(t.Context(), 0, 1000)
	if err != nil || len(list) != Samples+1 {
		t.Fatalf("%d samples, %v", len(list), err)
	}
	if oldest := list[len(list)-1]; !oldest.Trusted {
		t.Errorf("the quarantined frame is gone")
	}
	q, err := st.QuarantinedFrame(t.Context(), list[0].ID)
	if err != nil || q.Size != 1<<20 || len(q.Raw) > 8<<10 || q.Trusted {
		t.Errorf("size %d, %d bytes kept, %v", q.Size, len(q.Raw), err)
	}
}

// Samples is how many samples of rejected events a store under test is to keep.
const Samples = 25

// What no key can hold is refused for good and stores nothing.
func seqBeyondReachIsUnstorable(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	for _, f := range []store.Frame{
		frame("a", epoch(1), ledger.MaxSeq, ledger.MaxSeq+1),
		frame("a", telemetry.Epoch{Ordinal: 1 << 63}, 1, 1),
	} {
		if _, err := st.Commit(t.Context(), f); !errors.Is(err, store.ErrUnstorable) {
			t.Errorf("%s %d: %v", f.Epoch, f.Last, err)
		}
	}
	commit(t, st, frame("a", epoch(1), ledger.MaxSeq, ledger.MaxSeq))
	if got := all(t, st, store.Query{Agent: "a"}); len(got) != 1 || got[0].Seq != ledger.MaxSeq {
		t.Errorf("%+v", got)
	}
}

// A token lets one key in, and the same key again; a new key needs a new token.
func tokenWorksOnceAndAgainForItsKey(t *testing.T, db Database) {
	st := open(t, db)
	ctx := t.Context()
	token := store.Token{ID: "t1", SecretHash: [32]byte{7}, Agent: "a", Uses: 1, Expires: sent.Add(time.Hour), Created: sent}
	if err := st.CreateToken(ctx, token); err != nil {
		t.Fatal(err)
	}
	if got, err := st.Token(ctx, "t1"); err != nil || got != token {
		t.Errorf("token %+v, %v", got, err)
	}
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	for _, c := range []struct {
		id, agent string
		key       []byte
		at        time.Time
		ok        bool
	}{
		{"none", "a", key, sent, false},
		{"t1", "b", key, sent, false},
		{"t1", "a", key, sent.Add(2 * time.Hour), false},
		{"t1", "a", key, sent, true},
		{"t1", "a", key, sent, true},
		{"t1", "a", other, sent, false},
	} {
		err := st.Enrol(ctx, c.id, c.agent, c.key, c.at)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, store.ErrToken) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	token.ID = "t2"
	if err := st.CreateToken(ctx, token); err != nil {
		t.Fatal(err)
	}
	if err := st.Enrol(ctx, "t2", "a", other, sent); err != nil {
		t.Fatal(err)
	}
	if a := find(t, st, "a"); !a.Key.Equal(ed25519.PublicKey(other)) {
		t.Errorf("key %x", a.Key)
	}
	if _, err := st.Token(ctx, "none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown token: %v", err)
	}
}

// A fleet token lets as many agents in as it says, and only those of its prefix.
func fleetTokenHasUsesAndPrefix(t *testing.T, db Database) {
	st := open(t, db)
	if err := st.CreateToken(t.Context(), store.Token{ID: "f", Prefix: "pi-", Uses: 2, Expires: sent.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	enrol := func(name string) error {
		return st.Enrol(t.Context(), "f", name, bytes.Repeat([]byte(name[:1]), 32), sent)
	}
	for name, ok := range map[string]bool{"desk-1": false} {
		if err := enrol(name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i, want := range []bool{true, true, false} {
		if err := enrol(fmt.Sprintf("pi-%d", i)); (err == nil) != want {
			t.Errorf("pi-%d: %v", i, err)
		}
	}
	list, err := st.Agents(t.Context(), "pi-0", 10)
	if err != nil || len(list) != 1 || list[0].Name != "pi-1" {
		t.Errorf("%+v, %v", list, err)
	}
}

// What misses below the device's lowest is an alarm only when nothing that the
// device had then can explain it any more; a loss record ends it.
func holeIsAnAlarmOnlyWhenSettled(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	old, now := epoch(1), epoch(2)
	commit(t, st, frame("a", old, 1, 10))
	// The device has 21..30 of the old epoch and 1..5 of the newest.
	commit(t, st, with(frame("a", old, 21, 30), telemetry.OpenEpoch{Epoch: old, Lowest: 21, Durable: 30}, telemetry.OpenEpoch{Epoch: now, Lowest: 1, Durable: 5}))
	if a := find(t, st, "a"); a.Unexplained != 0 || a.Missing != 10 || len(a.Alarms) != 0 {
		t.Errorf("while an explanation may come: %+v", a)
	}
	commit(t, st, frame("a", now, 1, 5))
	if a := find(t, st, "a"); a.Unexplained != 10 || !slices.Equal(alarms(a), []string{store.AlarmHole}) {
		t.Errorf("after everything came: %+v", a)
	}
	r, err := st.Receipt(t.Context(), "a", []telemetry.Epoch{old})
	if err != nil || !r.Epochs[0].Hole {
		t.Errorf("receipt %+v, %v", r, err)
	}
	loss := frame("a", now, 0, 0)
	loss.First, loss.Last = 6, 6
	loss.Records = []telemetry.Record{{Seq: 6, Kind: telemetry.KindLoss, Loss: &telemetry.Loss{Epoch: old, Seqs: telemetry.Range{First: 11, Last: 20}, Reason: telemetry.ReasonUnknown}}}
	commit(t, st, loss)
	if a := find(t, st, "a"); a.Unexplained != 0 || a.Missing != 0 || a.Lost != 10 || len(a.Alarms) != 0 {
		t.Errorf("after the device explained it: %+v", a)
	}
}

// Two epochs of one agent that advance in turns are a clone.
func cloneIsAnAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	one, two := telemetry.Epoch{Ordinal: 4, ID: [8]byte{1}}, telemetry.Epoch{Ordinal: 4, ID: [8]byte{2}}
	for n := uint64(1); n <= 2; n++ {
		for _, e := range []telemetry.Epoch{one, two} {
			commit(t, st, with(frame("a", e, n, n), telemetry.OpenEpoch{Epoch: e, Lowest: 1, Durable: n}))
		}
	}
	if a := find(t, st, "a"); !slices.Equal(alarms(a), []string{store.AlarmClone}) {
		t.Errorf("alarms %+v", a.Alarms)
	}
	if got := all(t, st, store.Query{Agent: "a"}); len(got) != 4 {
		t.Errorf("%d readings: both are to be stored", len(got))
	}
	if err := st.Acknowledge(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if a := find(t, st, "a"); len(a.Alarms) != 0 {
		t.Errorf("after somebody looked at them: %+v", a.Alarms)
	}
	if err := st.Acknowledge(t.Context(), "nobody"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown agent: %v", err)
	}
}

// Restarts are ordinary, also when a broker delivers frames of the process
// before late and twice.
func restartIsNoAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	open := func(e telemetry.Epoch, durable uint64) telemetry.OpenEpoch {
		return telemetry.OpenEpoch{Epoch: e, Lowest: 1, Durable: durable}
	}
	first := with(frame("a", epoch(1), 1, 5), open(epoch(1), 5))
	late := with(frame("a", epoch(1), 6, 9), open(epoch(1), 9))
	second := with(frame("a", epoch(2), 2, 3), open(epoch(2), 3), open(epoch(1), 9))
	third := with(frame("a", epoch(2), 4, 5), open(epoch(2), 5), open(epoch(1), 9))
	for _, f := range []store.Frame{first, second, late, third, first, second, late} {
		commit(t, st, f)
	}
	if a := find(t, st, "a"); len(a.Alarms) != 0 || a.Lead != epoch(2) {
		t.Errorf("%+v", a)
	}
}

// A cloud that holds more of an epoch than its successor knows of says so.
func wentBackIsAnAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, frame("a", epoch(1), 1, 50))
	next := frame("a", epoch(2), 0, 0)
	next.First, next.Last = 1, 1
	next.Records = []telemetry.Record{{Seq: 1, Kind: telemetry.KindStart, Start: &telemetry.Start{Previous: epoch(1), PreviousLast: 40, Version: "1"}}}
	commit(t, st, next)
	if a := find(t, st, "a"); !slices.Equal(alarms(a), []string{store.AlarmWentBack}) {
		t.Errorf("alarms %+v", a.Alarms)
	}
}

// A card that is put back as it was while its device was off knows all of the
// epoch before; what tells is that another epoch followed that one already.
func twoSuccessorsAreAnAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, frame("a", epoch(1), 1, 50))
	for _, id := range []byte{1, 2} {
		f := frame("a", telemetry.Epoch{Ordinal: 2, ID: [8]byte{id}}, 1, 3)
		f.Records[0] = telemetry.Record{Seq: 1, Kind: telemetry.KindStart, Start: &telemetry.Start{Previous: epoch(1), PreviousLast: 50, PreviousClean: true, Version: "1"}}
		commit(t, st, f)
		commit(t, st, f)
		if a := find(t, st, "a"); (id == 2) != slices.Equal(alarms(a), []string{store.AlarmWentBack}) {
			t.Errorf("after successor %d: %+v", id, a.Alarms)
		}
	}
}

// A device that begins anew with an empty outbox says so, with what it forgot.
func newOutboxIsAnAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	for _, id := range []byte{1, 2} {
		e := telemetry.Epoch{Ordinal: 1, ID: [8]byte{id}}
		f := frame("a", e, 1, 3)
		f.Records[0] = telemetry.Record{Seq: 1, Kind: telemetry.KindStart, Start: &telemetry.Start{Version: "1"}}
		commit(t, st, with(f, telemetry.OpenEpoch{Epoch: e, Lowest: 1, Durable: 8}))
		if a := find(t, st, "a"); (id == 2) != slices.Equal(alarms(a), []string{store.AlarmReplaced}) {
			t.Errorf("after start %d: %+v", id, a.Alarms)
		}
	}
}

// What a device cannot truly say is an alarm, and is not believed.
func falseClaimsAreAnAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	e := epoch(1)
	for i, o := range []telemetry.OpenEpoch{
		{Epoch: e, Lowest: 12, Durable: 10},
		{Epoch: e, Lowest: 1, Durable: 10, Trimmed: 11},
		{Epoch: e, Lowest: 1, Durable: 4},
	} {
		commit(t, st, with(frame("a", e, 1, 5), o))
		a := find(t, st, "a")
		if !slices.Equal(alarms(a), []string{store.AlarmClaims}) || a.Alarms[0].Count != uint64(i+1) || a.OnDevice != 0 || a.Missing != 0 {
			t.Errorf("%+v: %+v", o, a)
		}
	}
}

// A device that was told more than the database holds shows that the database
// went back, and the seqs are wanted again.
func restoredBackupIsAnAlarm(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, with(frame("a", epoch(1), 31, 40), telemetry.OpenEpoch{Epoch: epoch(1), Lowest: 1, Durable: 40, Trimmed: 30}))
	if a := find(t, st, "a"); !slices.Equal(alarms(a), []string{store.AlarmRestored}) {
		t.Errorf("alarms %+v", a.Alarms)
	}
	r, err := st.Receipt(t.Context(), "a", []telemetry.Epoch{epoch(1)})
	if err != nil || !slices.Equal(r.Epochs[0].Ledger.Wanted(), ledger.Set{{First: 1, Last: 30}}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// After Close every method says that the store is unavailable.
func closedStoreIsUnavailable(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	if err := st.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := st.Commit(t.Context(), frame("a", epoch(1), 1, 1))
	_, err2 := st.Agent(t.Context(), "a")
	_, err3 := st.Readings(t.Context(), store.Query{Limit: 1})
	for _, err := range []error{err, err2, err3, st.Ping(t.Context())} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	}
}

// The topics of an agent are listed in order, with the time of the newest.
func topicsAreListed(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	f := store.Frame{Agent: "a", Epoch: epoch(1), First: 1, Last: 3, Received: sent}
	for i, topic := range []string{"b", "a", "b"} {
		f.Records = append(f.Records, reading(uint64(i+1), topic, nil))
	}
	commit(t, st, f)
	list, err := st.Topics(t.Context(), "a", "", 10)
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "b" || list[1].Last != sent.UnixNano()+3 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := st.Topics(t.Context(), "a", "a", 10); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// Readings recorded before the clock was set get their true time when the first
// synchronised anchor of their boot arrives, before or after them; what was
// recorded stays.
func lateAnchorCorrectsTimes(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	year1970 := func(boot time.Duration) telemetry.Instant { return telemetry.Instant{Boot: boot, Wall: int64(boot)} }
	r := func(seq uint64) telemetry.Record {
		rec := reading(seq, "t", nil)
		rec.At = year1970(time.Duration(seq) * time.Second)
		return rec
	}
	anchor := telemetry.Record{
		Seq: 3, Kind: telemetry.KindAnchor, At: telemetry.Instant{Boot: 3 * time.Second, Wall: sent.UnixNano()},
		Anchor: &telemetry.Anchor{Synchronised: true},
	}
	f := store.Frame{Agent: "a", Epoch: epoch(1), First: 1, Last: 1, Records: []telemetry.Record{r(1)}, Received: sent}
	commit(t, st, f)
	f.First, f.Last, f.Records = 2, 3, []telemetry.Record{r(2), anchor}
	commit(t, st, f)
	if err := st.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, got := range all(t, st, store.Query{Agent: "a"}) {
		want := sent.Add(time.Duration(i-2) * time.Second).UnixNano()
		if got.Corrected != want || got.Recorded != int64(got.Seq)*1e9 {
			t.Errorf("seq %d: corrected %d, want %d; recorded %d", got.Seq, got.Corrected, want, got.Recorded)
		}
	}
}

// What is older than the retention is removed, is called expired, still counts
// in receipts, and is not stored again when the device sends it again.
func retentionExpires(t *testing.T, db Database) {
	const days = 24 * time.Hour
	st := db.Open(t, sent, 2*days)
	agent(t, st, "a")
	old := frame("a", epoch(1), 1, 20)
	old.Records[9] = telemetry.Record{Seq: 10, Kind: telemetry.KindAnchor, Anchor: &telemetry.Anchor{}} // no reading
	late := frame("a", epoch(1), 21, 30)
	late.Received = sent.Add(3 * days)
	commit(t, st, old)
	if err := st.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, st, store.Query{Agent: "a"})); n != 19 {
		t.Fatalf("%d readings before their time", n)
	}
	st = db.Open(t, sent.Add(3*days), 2*days)
	commit(t, st, late)
	if err := st.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	commit(t, st, old)
	if got := all(t, st, store.Query{Agent: "a"}); len(got) != 10 || got[0].Seq != 21 {
		t.Errorf("%d readings left", len(got))
	}
	a := find(t, st, "a")
	e, err := st.Epochs(t.Context(), "a", telemetry.Epoch{}, 1)
	if err != nil || a.Held != 10 || a.Expired != 20 || e[0].Ledger.Watermark() != 30 || len(e[0].Ledger.Expired) != 1 {
		t.Errorf("%+v, %+v, %v", a, e, err)
	}
}

// Values come in the order of their corrected times, within the bounds, of the
// one topic, until the caller has enough.
func valuesAscendByTime(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	f := store.Frame{Agent: "a", Epoch: epoch(1), First: 1, Last: 40, Received: sent}
	for seq := uint64(1); seq <= 40; seq++ {
		r := reading(seq, fmt.Sprintf("t/%d", seq%2), fmt.Append(nil, seq))
		r.At.Wall = sent.UnixNano() - int64(seq) // descends
		f.Records = append(f.Records, r)
	}
	commit(t, st, f)
	var got []string
	base := sent.UnixNano()
	collect := func(at int64, payload []byte) error {
		got = append(got, string(payload))
		return nil
	}
	if err := st.Values(t.Context(), "a", "t/0", base-10, base-4, collect); err != nil || !slices.Equal(got, []string{"10", "8", "6"}) {
		t.Errorf("%v, %v", got, err)
	}
	enough := errors.New("enough")
	n := 0
	if err := st.Values(t.Context(), "a", "t/0", 0, base, func(int64, []byte) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("after %d: %v", n, err)
	}
	if err := st.Values(t.Context(), "a", "none", 0, base, collect); err != nil || len(got) != 3 {
		t.Errorf("unknown topic: %v, %v", got, err)
	}
	if err := st.Values(t.Context(), "nobody", "t/0", 0, base, collect); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown agent: %v", err)
	}
}

// The newest epochs are those heard of last, with the highest seq of each; one
// of them can be read alone.
func newestEpochsHaveTheirTop(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	for n := uint64(1); n <= 3; n++ {
		f := frame("a", epoch(n), 1, 10*n)
		f.Received = sent.Add(time.Duration(n) * time.Second)
		commit(t, st, f)
	}
	commit(t, st, with(frame("a", epoch(3), 0, 0), telemetry.OpenEpoch{Epoch: epoch(4), Lowest: 1, Durable: 7})) // has no readings yet
	list, err := st.Newest(t.Context(), 2)
	if err != nil || len(list) != 2 || list[0].Epoch != epoch(3) || list[0].Top != 30 || list[0].Agent != "a" || list[1].Epoch != epoch(2) {
		t.Fatalf("%+v, %v", list, err)
	}
	if at := sent.Add(3 * time.Second).UnixNano(); list[0].Last != at {
		t.Errorf("last received %d, want %d", list[0].Last, at)
	}
	if got := all(t, st, store.Query{Agent: "a", Epoch: epoch(2), Limit: 7}); len(got) != 20 || got[0].Epoch != epoch(2) {
		t.Errorf("%d readings of one epoch", len(got))
	}
}

// An agent is confirmed up to the reading before the first one that is still on
// the device, in whichever epoch that is.
func confirmedFollowsTheFirstOpen(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	if a := find(t, st, "a"); a.Confirmed != 0 {
		t.Errorf("before anything: %d", a.Confirmed)
	}
	base := sent.UnixNano() // a reading's time is this and its seq
	old, now := epoch(1), epoch(2)
	say := func(f store.Frame, durable uint64) {
		commit(t, st, with(f, telemetry.OpenEpoch{Epoch: f.Epoch, Lowest: 1, Durable: durable}))
	}
	for _, c := range []struct {
		f       store.Frame
		durable uint64
		want    int64
	}{
		{frame("a", old, 1, 10), 30, 10},
		{frame("a", now, 101, 110), 110, 10}, // the old one has 11 to 30 still
		{frame("a", old, 11, 30), 30, 30},    // now 1 to 100 of the new one are open
		{frame("a", now, 1, 50), 110, 50},
		{frame("a", now, 51, 100), 110, 110},
	} {
		say(c.f, c.durable)
		if a := find(t, st, "a"); a.Confirmed != base+c.want {
			t.Errorf("after %s %d-%d: confirmed to %d, want %d", c.f.Epoch, c.f.First, c.f.Last, a.Confirmed-base, c.want)
		}
	}
}

// The backlog of an agent that is heard is noted once a minute, and forgotten
// after a month.
func backlogIsNoted(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	for i := range uint64(5) {
		f := with(frame("a", epoch(1), i+1, i+1), telemetry.OpenEpoch{Epoch: epoch(1), Lowest: 1, Durable: 10})
		f.Received = sent.Add(time.Duration(i) * 30 * time.Second)
		commit(t, st, f)
	}
	got, err := st.Backlog(t.Context(), "a", sent, sent.Add(time.Hour), 10)
	if err != nil || len(got) != 3 || got[0].OnDevice != 9 || got[2].OnDevice != 5 || got[2].Held != 5 || !got[1].At.Equal(sent.Add(time.Minute)) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := st.Backlog(t.Context(), "a", sent, sent.Add(time.Hour), 2); err != nil || len(got) != 2 || got[0].OnDevice != 7 {
		t.Errorf("the newest two: %+v, %v", got, err)
	}
	later := db.Open(t, sent.Add(store.SamplesKept+90*time.Second), 0)
	if err := later.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := later.Backlog(t.Context(), "a", sent, sent.Add(time.Hour), 10); err != nil || len(got) != 1 {
		t.Errorf("after a month: %+v, %v", got, err)
	}
}
