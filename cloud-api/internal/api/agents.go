package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// agentJSON is one agent as /v1/agents lists it.
type agentJSON struct {
	ID          string      `json:"id"`
	EnrolledAt  time.Time   `json:"enrolled_at"`
	RevokedAt   *time.Time  `json:"revoked_at"`
	FirstSeen   *time.Time  `json:"first_seen"`
	LastSeen    *time.Time  `json:"last_seen"`
	Epoch       string      `json:"epoch"`     // the newest that advanced
	Watermark   uint64      `json:"watermark"` // of that epoch
	Confirmed   *time.Time  `json:"confirmed_through"`
	Held        uint64      `json:"held"`
	OnDevice    uint64      `json:"on_device"`
	Lost        uint64      `json:"lost"`
	Expired     uint64      `json:"expired"`
	Quarantined uint64      `json:"quarantined"`
	Unexplained uint64      `json:"unexplained"`
	Readings    uint64      `json:"readings"`
	Redelivered uint64      `json:"redelivered"`
	OpenEpochs  uint64      `json:"open_epochs"`
	Alarms      []alarmJSON `json:"alarms"`
}

type alarmJSON struct {
	Kind   string    `json:"kind"`
	Epoch  string    `json:"epoch"`
	Detail string    `json:"detail"`
	First  time.Time `json:"first_at"`
	Last   time.Time `json:"last_at"`
	Count  uint64    `json:"count"`
}

func agentOf(a *store.Agent) agentJSON {
	out := agentJSON{
		ID: a.Name, EnrolledAt: a.EnrolledAt, RevokedAt: optional(a.RevokedAt), FirstSeen: optional(a.FirstSeen), LastSeen: optional(a.LastSeen),
		Epoch: epochText(a.Lead), Watermark: a.LeadMark, Held: a.Held, OnDevice: a.OnDevice, Lost: a.Lost, Expired: a.Expired,
		Confirmed:   optional(moment(a.Confirmed)),
		Quarantined: a.Quarantined, Unexplained: a.Unexplained, Readings: a.Readings, Redelivered: a.Redelivered,
		OpenEpochs: a.OpenEpochs, Alarms: []alarmJSON{},
	}
	for _, l := range a.Alarms {
		out.Alarms = append(out.Alarms, alarmJSON{l.Kind, epochText(l.Epoch), l.Detail, l.First, l.Last, l.Count})
	}
	return out
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func epochText(e telemetry.Epoch) string {
	if e.IsZero() {
		return ""
	}
	return e.String()
}

func (s *Server) agents(r *request) error {
	after, limit := r.agent("after"), r.number("limit", 1000, 1000)
	if r.fault != nil {
		return r.fault
	}
	ctx, cancel := work()
	defer cancel()
	list, next, err := s.visible(ctx, &r.caller, after, limit)
	if err != nil {
		return failure(err)
	}
	out := struct {
		Agents []agentJSON `json:"agents"`
		Next   string      `json:"next,omitempty"`
	}{Agents: []agentJSON{}, Next: next}
	for i := range list {
		out.Agents = append(out.Agents, agentOf(&list[i]))
	}
	return r.JSON(out)
}

// visible lists the agents that the caller may see. A page may be short: next
// tells whether there are more.
func (s *Server) visible(ctx context.Context, who *Caller, after string, limit int) (out []store.Agent, next string, err error) {
	list, err := s.opt.Store.Agents(ctx, after, limit)
	if err != nil {
		return nil, "", err
	}
	if len(list) == limit {
		next = list[limit-1].Name
	}
	for _, a := range list {
		if who.sees(a.Name) {
			out = append(out, a)
		}
	}
	return out, next, nil
}

// epochJSON is one ledger.
type epochJSON struct {
	Epoch       string      `json:"epoch"`
	Watermark   uint64      `json:"watermark"`
	Durable     uint64      `json:"durable"`
	Lowest      uint64      `json:"lowest"`
	Trimmed     uint64      `json:"trimmed"`
	SeenAt      *time.Time  `json:"seen_at"`
	ReceivedAt  *time.Time  `json:"received_at"`
	Start       *startJSON  `json:"start"`
	Held        []rangeJSON `json:"held"`
	OnDevice    []rangeJSON `json:"on_device"`
	Lost        []lostJSON  `json:"lost"`
	Expired     []rangeJSON `json:"expired"`
	Quarantined []rangeJSON `json:"quarantined"`
	Pending     []rangeJSON `json:"pending"`     // below what is on the device, its explanation still on the way
	Unexplained []rangeJSON `json:"unexplained"` // the same, and none is on the way
	Oversized   uint64      `json:"oversized"`
	Truncated   bool        `json:"truncated"` // a list has more ranges than are shown
}

type startJSON struct {
	Previous      string `json:"previous"`
	PreviousLast  uint64 `json:"previous_last"`
	PreviousClean bool   `json:"previous_clean"`
	Version       string `json:"version"`
}

type rangeJSON struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

type lostJSON struct {
	rangeJSON
	Reason string `json:"reason"`
}

// maxRanges bounds each list of an epoch in an answer.
const maxRanges = 1000

func ranges(set ledger.Set, truncated *bool) []rangeJSON {
	*truncated = *truncated || len(set) > maxRanges
	out := []rangeJSON{}
	for _, r := range set[:min(len(set), maxRanges)] {
		out = append(out, rangeJSON{r.First, r.Last})
	}
	return out
}

func epochOf(e *store.Epoch) epochJSON {
	l := e.Ledger
	out := epochJSON{
		Epoch: e.Epoch.String(), Watermark: l.Watermark(), Durable: l.Device.Durable, Lowest: l.Device.Lowest, Trimmed: l.Device.Trimmed,
		SeenAt: optional(l.Device.Seen), ReceivedAt: optional(e.ReceivedAt), Oversized: l.Oversized, Lost: []lostJSON{},
		Pending: []rangeJSON{}, Unexplained: []rangeJSON{},
	}
	out.Held = ranges(l.Held, &out.Truncated)
	out.OnDevice = ranges(l.OnDevice(), &out.Truncated)
	out.Expired = ranges(l.Expired, &out.Truncated)
	out.Quarantined = ranges(l.Quarantined, &out.Truncated)
	if missing := ranges(l.Missing(), &out.Truncated); e.Hole {
		out.Unexplained = missing
	} else {
		out.Pending = missing
	}
	for why := telemetry.Reason(1); why != 0; why++ {
		for _, r := range ranges(l.Lost[why], &out.Truncated) {
			out.Lost = append(out.Lost, lostJSON{r, why.String()})
		}
	}
	if s := l.Start; s != nil {
		out.Start = &startJSON{epochText(s.Previous), s.PreviousLast, s.PreviousClean, s.Version}
	}
	return out
}

func (s *Server) agent(r *request) error {
	name, err := r.agentInPath()
	if err != nil {
		return err
	}
	var below telemetry.Epoch
	if t := r.text("below"); t != "" {
		if below, err = telemetry.ParseEpoch(t); err != nil {
			r.fail("below: %s", err)
		}
	}
	limit := r.number("limit", 100, 1000)
	if r.fault != nil {
		return r.fault
	}
	ctx, cancel := work()
	defer cancel()
	a, err := s.opt.Store.Agent(ctx, name)
	if err != nil {
		return failure(err)
	}
	epochs, err := s.opt.Store.Epochs(ctx, name, below, limit)
	if err != nil {
		return failure(err)
	}
	out := struct {
		agentJSON
		Epochs []epochJSON `json:"epochs"`
		Next   string      `json:"next,omitempty"`
	}{agentJSON: agentOf(&a), Epochs: []epochJSON{}}
	for i := range epochs {
		out.Epochs = append(out.Epochs, epochOf(&epochs[i]))
	}
	if len(epochs) == limit {
		out.Next = epochs[limit-1].Epoch.String()
	}
	return r.JSON(out)
}

// agentInPath returns the agent that the path names, if the caller may see it.
func (r *request) agentInPath() (string, error) {
	name, err := url.PathUnescape(r.Params("id"))
	if err != nil || telemetry.ValidateAgent(name) != nil {
		return "", problem.New(http.StatusNotFound, "no agent can have this id")
	}
	if !r.caller.sees(name) {
		return "", problem.New(http.StatusNotFound, "not known here")
	}
	return strings.Clone(name), nil
}

// acknowledge removes the alarms of an agent that somebody has looked at.
func (s *Server) acknowledge(r *request) error {
	name, err := r.agentInPath()
	if err != nil {
		return err
	}
	ctx, cancel := work()
	defer cancel()
	if err := s.opt.Store.Acknowledge(ctx, name); err != nil {
		return failure(err)
	}
	s.opt.Logger.Info("api: alarms acknowledged", "agent", name, "by", r.caller.Name)
	return r.SendStatus(http.StatusNoContent)
}

// revoke shuts an agent out: nothing that it sends is stored from now on.
func (s *Server) revoke(r *request) error { return s.admit(r, time.Now().UTC(), "api: agent revoked") }

// allow takes a revoked agent back, with the key that it has.
func (s *Server) allow(r *request) error { return s.admit(r, time.Time{}, "api: agent allowed again") }

func (s *Server) admit(r *request, revoked time.Time, event string) error {
	name, err := r.agentInPath()
	if err != nil {
		return err
	}
	ctx, cancel := work()
	defer cancel()
	if err := s.opt.Store.Revoke(ctx, name, revoked); err != nil {
		return failure(err)
	}
	if s.opt.Tell != nil {
		s.opt.Tell(name)
	}
	s.opt.Logger.Warn(event, "agent", name, "by", r.caller.Name)
	return r.SendStatus(http.StatusNoContent)
}

func (s *Server) topics(r *request) error {
	name, err := r.agentInPath()
	if err != nil {
		return err
	}
	after, limit := r.text("after"), r.number("limit", 1000, 10000)
	if r.fault != nil {
		return r.fault
	}
	ctx, cancel := work()
	defer cancel()
	list, err := s.opt.Store.Topics(ctx, name, after, limit)
	if err != nil {
		return failure(err)
	}
	type topicJSON struct {
		Topic string `json:"topic"`
		Last  string `json:"last_at,omitempty"`
	}
	out := struct {
		Topics []topicJSON `json:"topics"`
		Next   string      `json:"next,omitempty"`
	}{Topics: []topicJSON{}}
	for _, t := range list {
		out.Topics = append(out.Topics, topicJSON{t.Name, format.Instant(t.Last)})
	}
	if len(list) == limit {
		out.Next = list[limit-1].Name
	}
	return r.JSON(out)
}

// maxSamples is a month of samples, once a minute, thinned by nobody.
const maxSamples = 50_000

// backlog answers with what was on the device over time.
func (s *Server) backlog(r *request) error {
	name, err := r.agentInPath()
	if err != nil {
		return err
	}
	to := time.Now()
	if ns := r.instant("to"); ns != 0 {
		to = moment(ns)
	}
	from := to.Add(-24 * time.Hour)
	if ns := r.instant("from"); ns != 0 {
		from = moment(ns)
	}
	if r.fault != nil {
		return r.fault
	}
	ctx, cancel := work()
	defer cancel()
	list, err := s.opt.Store.Backlog(ctx, name, from, to, maxSamples)
	if err != nil {
		return failure(err)
	}
	type sampleJSON struct {
		At       time.Time `json:"at"`
		OnDevice uint64    `json:"on_device"`
		Held     uint64    `json:"held"`
	}
	out := struct {
		Samples []sampleJSON `json:"samples"`
	}{Samples: []sampleJSON{}}
	for _, b := range list {
		out.Samples = append(out.Samples, sampleJSON{b.At, b.OnDevice, b.Held})
	}
	return r.JSON(out)
}
