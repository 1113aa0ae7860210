package store

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// scanBudget is how many seqs one call looks at: about half a second. What
	// is beyond it is found by the next page.
	scanBudget = 1_000_000
	// scanStep is how many of them one statement looks at.
	scanStep = 50_000
	// epochCost is what looking into an epoch costs of the budget, so that an
	// agent that restarted ten thousand times is bounded too.
	epochCost = 500
	// pageBytes bounds the payloads of a page: ten thousand of the largest would
	// be gigabytes. One reading always fits.
	pageBytes = 8 << 20
	// latestBytes bounds those of one epoch among the newest, and latestRows how
	// many there are.
	latestBytes = 1 << 20
	latestRows  = 1000
	// latestEpochs is how many epochs are asked for the newest readings of all
	// agents: with one live epoch an agent, so many agents.
	latestEpochs = 50
	// NewestLook is how many epochs are gone through for those of some agents: the
	// rows of a fleet of thousands, some milliseconds.
	NewestLook = 5000
)

// Look returns how many epochs Newest has to ask the database for.
func Look(limit int, allow func(agent string) bool) int {
	if allow != nil {
		return NewestLook
	}
	return limit
}

// Allowed returns the first few epochs of agents that allow lets through.
func Allowed(list []EpochRef, limit int, allow func(agent string) bool) []EpochRef {
	if allow != nil {
		list = slices.DeleteFunc(list, func(e EpochRef) bool { return !allow(e.Agent) })
	}
	return list[:min(len(list), limit)]
}

// EpochRef is one epoch as a database knows it.
type EpochRef struct {
	ID          int64
	AgentID     int64
	Agent       string
	Epoch       telemetry.Epoch
	First, Last int64  // received times of its first and last reading, Unix nanoseconds; not known to every database
	Top         uint64 // highest seq held; only from Newest
}

// Source is how a database gives readings to Scan, within one snapshot.
type Source interface {
	// AgentID returns ErrNotFound for a name it does not know.
	AgentID(name string) (int64, error)
	// NextAgent returns the first agent after the name, or at it when from is
	// true; an empty name at the end.
	NextAgent(name string, from bool) (id int64, next string, err error)
	// EpochsFrom lists the epochs of an agent from one on: upwards, or downwards.
	EpochsFrom(agent int64, from telemetry.Epoch, desc bool) ([]EpochRef, error)
	// Newest lists the epochs that were heard of last, of the agents that allow
	// lets through (nil: all) among the NewestLook last.
	Newest(limit int, allow func(agent string) bool) ([]EpochRef, error)
	// TopicIDs lists the topics of an agent that the filter may match.
	TopicIDs(agent int64, filter string) ([]Topic, error)
	// Bounds returns the first and last seq within r that has a reading; an
	// empty range when none has.
	Bounds(e EpochRef, r telemetry.Range) (telemetry.Range, error)
	// Rows returns the first readings with seqs in r (the last ones when desc),
	// of the topics given (nil: all) and between the query's times. It stops
	// when room is full.
	Rows(e EpochRef, r telemetry.Range, topics []int64, q *Query, room *Room) ([]Reading, error)
}

// Room is how much more a page takes.
type Room struct {
	Rows  int
	Bytes int
}

// Take makes use of the room and reports whether there is more.
func (r *Room) Take(rd *Reading) bool {
	r.Rows--
	r.Bytes -= len(rd.Payload) + len(rd.Topic)
	return r.Rows > 0 && r.Bytes > 0
}

// Scan answers a query for readings from a source: one page, in order, with a
// bounded number of rows looked at. It returns ErrCursor and ErrNotFound.
func Scan(q Query, src Source) (Page, error) {
	// One row more than fits is asked for, to know whether there is a next page.
	s := scan{q: q, src: src, budget: scanBudget, room: Room{Rows: q.Limit + 1, Bytes: pageBytes}}
	if q.Desc && q.Agent == "" {
		err := s.latest()
		return s.page, err
	}
	var cur Cursor
	var epoch telemetry.Epoch
	if q.Cursor != "" {
		var err error
		if cur, epoch, err = ParseCursor(q.Cursor); err != nil {
			return Page{}, err
		}
	}
	err := s.agents(cur, epoch)
	return s.page, err
}

type scan struct {
	q      Query
	src    Source
	page   Page
	budget int64
	room   Room
}

// agents walks the agents in the order of their names, from the cursor on.
func (s *scan) agents(cur Cursor, epoch telemetry.Epoch) error {
	if s.q.Agent != "" {
		id, err := s.src.AgentID(s.q.Agent)
		if err == nil {
			_, err = s.agent(id, s.q.Agent, cur, epoch)
		}
		return err
	}
	name, from := cur.Agent, cur.Agent != ""
	for {
		id, next, err := s.src.NextAgent(name, from)
		if err != nil || next == "" {
			return err
		}
		if s.q.Allow == nil || s.q.Allow(next) {
			c, e := Cursor{}, telemetry.Epoch{}
			if next == cur.Agent {
				c, e = cur, epoch
			}
			if full, err := s.agent(id, next, c, e); full || err != nil {
				return err
			}
		}
		name, from = next, false
	}
}

// agent walks the epochs of one agent; full means that the page is.
func (s *scan) agent(id int64, name string, cur Cursor, from telemetry.Epoch) (full bool, err error) {
	topics, none, err := s.topics(id)
	if none || err != nil {
		return false, err
	}
	if s.q.Desc && from.IsZero() {
		from = telemetry.Epoch{Ordinal: math.MaxInt64, ID: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	}
	epochs, err := s.src.EpochsFrom(id, from, s.q.Desc)
	if err != nil {
		return false, err
	}
	for _, e := range epochs {
		if !s.q.Epoch.IsZero() && e.Epoch != s.q.Epoch {
			continue
		}
		e.Agent = name
		seq := uint64(0)
		if cur.Epoch != "" && e.Epoch == from {
			seq = cur.Seq
		}
		if full, err := s.epoch(e, seq, topics); full || err != nil {
			return full, err
		}
	}
	return false, nil
}

// topics finds the topics of the agent that the query's filter matches: nil for
// all, none when there are none.
func (s *scan) topics(agent int64) (ids []int64, none bool, err error) {
	if s.q.Topic == "" || s.q.Topic == "#" {
		return nil, false, nil
	}
	list, err := s.src.TopicIDs(agent, s.q.Topic)
	if err != nil {
		return nil, false, err
	}
	for _, t := range list {
		if MatchTopic(s.q.Topic, t.Name) {
			ids = append(ids, t.ID)
		}
	}
	return ids, len(ids) == 0, nil
}

// epoch reads the readings of one epoch after seq (before it when descending;
// 0: from the end) until the page is full or the budget is spent.
func (s *scan) epoch(e EpochRef, seq uint64, topics []int64) (full bool, err error) {
	r := telemetry.Range{First: seq + 1, Last: ledger.MaxSeq}
	if s.q.Desc {
		r.First = 1
		if seq > 0 {
			r.Last = seq - 1
		}
	}
	if r.Len() > 0 {
		if r, err = s.src.Bounds(e, r); err != nil {
			return false, err
		}
	}
	s.budget -= epochCost
	for r.Len() > 0 {
		step := s.step(&r)
		if full, err := s.rows(e, step, topics); full || err != nil {
			return full, err
		}
		if s.budget -= int64(step.Len()); s.budget <= 0 {
			s.stop(e, step)
			return true, nil
		}
	}
	if s.budget <= 0 {
		s.stop(e, telemetry.Range{First: 1, Last: ledger.MaxSeq})
		return true, nil
	}
	return false, nil
}

// step takes the next part off r.
func (s *scan) step(r *telemetry.Range) telemetry.Range {
	part := *r
	if s.q.Desc {
		part.First = max(r.First, r.Last-min(r.Last, scanStep)+1)
		r.Last = part.First - 1
		return part
	}
	part.Last = min(r.Last, r.First+scanStep-1)
	r.First = part.Last + 1
	return part
}

// stop ends the page behind step.
func (s *scan) stop(e EpochRef, step telemetry.Range) {
	at := step.Last
	if s.q.Desc {
		at = step.First
	}
	s.page.Next = Cursor{Agent: e.Agent, Epoch: e.Epoch.String(), Seq: at}.String()
}

// rows adds the readings of one step.
func (s *scan) rows(e EpochRef, step telemetry.Range, topics []int64) (full bool, err error) {
	got, err := s.src.Rows(e, step, topics, &s.q, &s.room)
	if err != nil {
		return false, err
	}
	s.page.Readings = append(s.page.Readings, got...)
	n := len(s.page.Readings)
	if n <= s.q.Limit && s.room.Bytes > 0 {
		return false, nil
	}
	s.page.Readings = s.page.Readings[:min(n, s.q.Limit)]
	l := s.page.Readings[len(s.page.Readings)-1]
	s.page.Next = Cursor{Agent: l.Agent, Epoch: l.Epoch.String(), Seq: l.Seq}.String()
	return true, nil
}

// latest returns the readings received last, over all agents: without a cursor,
// for a page that shows what is coming in.
func (s *scan) latest() error {
	epochs, err := s.src.Newest(latestEpochs, s.q.Allow)
	if err != nil {
		return err
	}
	for _, e := range epochs {
		topics, none, err := s.topics(e.AgentID)
		if err != nil {
			return err
		}
		r, err := s.src.Bounds(e, telemetry.Range{First: 1, Last: ledger.MaxSeq})
		if err != nil {
			return err
		}
		if none || r.Len() == 0 {
			continue
		}
		top, err := s.src.Rows(e, s.step(&r), topics, &s.q, &Room{Rows: min(s.q.Limit, latestRows), Bytes: latestBytes})
		if err != nil {
			return fmt.Errorf("read the newest of %s: %w", e.Agent, err)
		}
		s.page.Readings = append(s.page.Readings, top...)
	}
	slices.SortStableFunc(s.page.Readings, func(a, b Reading) int { return cmp.Compare(b.Received, a.Received) })
	s.page.Readings = s.page.Readings[:min(len(s.page.Readings), s.q.Limit, latestRows)]
	return nil
}
