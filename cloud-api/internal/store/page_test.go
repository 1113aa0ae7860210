package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// memory is a Source over a slice, in the order of pages.
type memory struct {
	rows   []Reading
	looked uint64 // seqs that Rows was asked for
	failAt int    // the call of Rows that fails; 0: none
	calls  int
}

func (m *memory) agents() (names []string) {
	for _, r := range m.rows {
		names = append(names, r.Agent)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (m *memory) AgentID(name string) (int64, error) {
	if i := slices.Index(m.agents(), name); i >= 0 {
		return int64(i), nil
	}
	return 0, ErrNotFound
}

func (m *memory) NextAgent(name string, from bool) (int64, string, error) {
	for i, a := range m.agents() {
		if a > name || from && a == name {
			return int64(i), a, nil
		}
	}
	return 0, "", nil
}

func (m *memory) EpochsFrom(agent int64, from telemetry.Epoch, desc bool) (out []EpochRef, err error) {
	name := m.agents()[agent]
	seen := map[telemetry.Epoch]bool{}
	for _, r := range m.rows {
		c := r.Epoch.Compare(from)
		if r.Agent != name || seen[r.Epoch] || !desc && c < 0 || desc && c > 0 {
			continue
		}
		seen[r.Epoch] = true
		out = append(out, EpochRef{ID: int64(r.Epoch.Ordinal), AgentID: agent, Agent: name, Epoch: r.Epoch})
	}
	slices.SortFunc(out, func(a, b EpochRef) int {
		if desc {
			a, b = b, a
		}
		return a.Epoch.Compare(b.Epoch)
	})
	return out, nil
}

func (m *memory) Newest(limit int, allow func(string) bool) (out []EpochRef, err error) {
	for i := range m.agents() {
		list, err := m.EpochsFrom(int64(i), telemetry.Epoch{Ordinal: 1 << 40}, true)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return Allowed(out, limit, allow), nil
}

func (m *memory) TopicIDs(agent int64, _ string) (out []Topic, err error) {
	name := m.agents()[agent]
	for _, r := range m.rows {
		if r.Agent == name && !slices.ContainsFunc(out, func(t Topic) bool { return t.Name == r.Topic }) {
			out = append(out, Topic{ID: topicID(r.Topic), Name: r.Topic})
		}
	}
	return out, nil
}

func topicID(name string) int64 { return int64(name[len(name)-1]) }

func (m *memory) Bounds(e EpochRef, r telemetry.Range) (out telemetry.Range, err error) {
	for _, row := range m.rows {
		if row.Agent == e.Agent && row.Epoch == e.Epoch && row.Seq >= r.First && row.Seq <= r.Last {
			if out.First == 0 || row.Seq < out.First {
				out.First = row.Seq
			}
			out.Last = max(out.Last, row.Seq)
		}
	}
	return out, nil
}

var errSource = errors.New("source failed")

func (m *memory) Rows(e EpochRef, r telemetry.Range, topics []int64, q *Query, room *Room) (out []Reading, err error) {
	if m.calls++; m.calls == m.failAt {
		return nil, errSource
	}
	m.looked += r.Len()
	list := slices.Clone(m.rows)
	slices.SortFunc(list, func(a, b Reading) int {
		if q.Desc {
			a, b = b, a
		}
		return int(int64(a.Seq) - int64(b.Seq))
	})
	for _, row := range list {
		if row.Agent != e.Agent || row.Epoch != e.Epoch || row.Seq < r.First || row.Seq > r.Last || topics != nil && !slices.Contains(topics, topicID(row.Topic)) {
			continue
		}
		out = append(out, row)
		if !room.Take(&row) {
			break
		}
	}
	return out, nil
}

func row(agent string, e, seq uint64, topic string, size int) Reading {
	return Reading{Agent: agent, Epoch: telemetry.Epoch{Ordinal: e}, Seq: seq, Topic: topic, Payload: make([]byte, size), Received: int64(e*1000 + seq)}
}

// pages follows the cursor to its end.
func pages(t *testing.T, q Query, src Source) (out []Reading, n int) {
	t.Helper()
	for {
		p, err := Scan(q, src)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Readings) > q.Limit {
			t.Fatalf("%d readings, limit %d", len(p.Readings), q.Limit)
		}
		out, n = append(out, p.Readings...), n+1
		if q.Cursor = p.Next; p.Next == "" {
			return out, n
		}
		if n > 10_000 {
			t.Fatal("pages without an end")
		}
	}
}

// Whatever lies in the source, the pages have every selected reading once and in
// order, for any limit and direction.
func TestPagesAreAPartition(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		var m memory
		for range rng.IntN(80) {
			r := row(string(rune('a'+rng.IntN(3))), 1+rng.Uint64N(4), 1+rng.Uint64N(200_000), fmt.Sprintf("t%d", rng.IntN(3)), 1)
			if !slices.ContainsFunc(m.rows, func(o Reading) bool { return o.Agent == r.Agent && o.Epoch == r.Epoch && o.Seq == r.Seq }) {
				m.rows = append(m.rows, r)
			}
		}
		q := Query{Limit: 1 + rng.IntN(10)}
		if rng.IntN(2) == 0 && len(m.rows) > 0 {
			q.Agent, q.Desc = m.rows[0].Agent, rng.IntN(2) == 0
		}
		if rng.IntN(2) == 0 {
			q.Topic = "t1"
		}
		want := slices.DeleteFunc(slices.Clone(m.rows), func(r Reading) bool {
			return q.Agent != "" && r.Agent != q.Agent || q.Topic != "" && r.Topic != q.Topic
		})
		slices.SortFunc(want, func(a, b Reading) int {
			if a.Agent != b.Agent {
				return int(a.Agent[0]) - int(b.Agent[0])
			}
			if q.Desc {
				a, b = b, a
			}
			if c := a.Epoch.Compare(b.Epoch); c != 0 {
				return c
			}
			return int(int64(a.Seq) - int64(b.Seq))
		})
		got, _ := pages(t, q, &m)
		if !slices.EqualFunc(got, want, func(a, b Reading) bool { return a.Agent == b.Agent && a.Epoch == b.Epoch && a.Seq == b.Seq }) {
			t.Fatalf("seed %d, %+v: %d readings, want %d", seed, q, len(got), len(want))
		}
	}
}

// A query that would look at everything for one reading at the end looks at a
// bounded part, and says where to go on.
func TestOneCallLooksAtABoundedPart(t *testing.T) {
	m := memory{rows: []Reading{row("a", 1, 1, "t0", 1), row("a", 1, 10_000_000, "t1", 1)}}
	for n := uint64(1); n < 10; n++ {
		m.rows = append(m.rows, row("a", 1, n*1_000_000+1, "t2", 1))
	}
	q := Query{Topic: "t1", Limit: 10}
	p, err := Scan(q, &m)
	if err != nil || len(p.Readings) != 0 || p.Next == "" || m.looked > scanBudget+scanStep {
		t.Fatalf("%+v, %v, looked at %d", p, err, m.looked)
	}
	got, n := pages(t, q, &m)
	if len(got) != 1 || got[0].Seq != 10_000_000 || n < 9 || n > 12 {
		t.Errorf("%d readings in %d pages", len(got), n)
	}
	q.Desc, q.Agent, q.Topic = true, "a", "t0"
	if got, _ := pages(t, q, &m); len(got) != 1 || got[0].Seq != 1 {
		t.Errorf("descending: %d readings", len(got))
	}
}

// Ten thousand epochs are looked into over some pages, not in one.
func TestEpochsCostOfTheBudget(t *testing.T) {
	var m memory
	for e := uint64(1); e <= 5000; e++ {
		m.rows = append(m.rows, row("a", e, 1, "t0", 1))
	}
	p, err := Scan(Query{Agent: "a", Limit: 10_000}, &m)
	if err != nil || len(p.Readings) == 0 || len(p.Readings) > scanBudget/epochCost || p.Next == "" {
		t.Fatalf("%d readings, next %q, %v", len(p.Readings), p.Next, err)
	}
	if got, _ := pages(t, Query{Agent: "a", Limit: 10_000}, &m); len(got) != 5000 {
		t.Errorf("%d readings in all", len(got))
	}
}

// A page has a bounded number of bytes, and one reading always fits.
func TestPagesAreBoundedInBytes(t *testing.T) {
	var m memory
	for seq := uint64(1); seq <= 10; seq++ {
		m.rows = append(m.rows, row("a", 1, seq, "t0", pageBytes/3))
	}
	p, err := Scan(Query{Limit: 100}, &m)
	if err != nil || len(p.Readings) != 3 {
		t.Errorf("%d readings, %v", len(p.Readings), err)
	}
	m.rows[0].Payload = make([]byte, 2*pageBytes)
	if p, err = Scan(Query{Limit: 100}, &m); err != nil || len(p.Readings) != 1 {
		t.Errorf("%d readings, %v", len(p.Readings), err)
	}
	if got, _ := pages(t, Query{Limit: 100}, &m); len(got) != 10 {
		t.Errorf("%d readings in all", len(got))
	}
}

// The newest of all agents come by received time, cut to the limit, and only
// those that may be seen.
func TestNewestOfAll(t *testing.T) {
	var m memory
	for seq := uint64(1); seq <= 5; seq++ {
		m.rows = append(m.rows, row("a", 1, seq, "t0", 1), row("b", 2, seq, "t0", 1), row("c", 3, seq, "t0", 1))
	}
	p, err := Scan(Query{Desc: true, Limit: 7, Allow: func(a string) bool { return a != "c" }}, &m)
	if err != nil || len(p.Readings) != 7 || p.Next != "" || p.Readings[0].Agent != "b" || p.Readings[0].Seq != 5 || p.Readings[6].Agent != "a" || p.Readings[6].Seq != 4 {
		t.Errorf("%+v, %v", p, err)
	}
}

// A source that fails fails the query, and a cursor that is none is refused.
func TestScanFails(t *testing.T) {
	m := memory{rows: []Reading{row("a", 1, 1, "t0", 1)}, failAt: 1}
	if _, err := Scan(Query{Limit: 1}, &m); !errors.Is(err, errSource) {
		t.Errorf("%v", err)
	}
	if _, err := Scan(Query{Limit: 1, Cursor: "?"}, &m); !errors.Is(err, ErrCursor) {
		t.Errorf("%v", err)
	}
	if _, err := Scan(Query{Limit: 1, Agent: "nobody"}, &m); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A cursor of an agent or an epoch that is gone goes on behind it.
func TestCursorOfWhatIsGone(t *testing.T) {
	m := memory{rows: []Reading{row("a", 1, 1, "t0", 1), row("c", 3, 1, "t0", 1), row("c", 3, 2, "t0", 1)}}
	for c, want := range map[Cursor]int{
		{"b", telemetry.Epoch{Ordinal: 1}.String(), 7}: 2,
		{"c", telemetry.Epoch{Ordinal: 2}.String(), 7}: 2,
		{"c", telemetry.Epoch{Ordinal: 3}.String(), 1}: 1,
		{"d", telemetry.Epoch{Ordinal: 1}.String(), 1}: 0,
	} {
		if p, err := Scan(Query{Limit: 10, Cursor: c.String()}, &m); err != nil || len(p.Readings) != want {
			t.Errorf("%+v: %d readings, %v", c, len(p.Readings), err)
		}
	}
}
