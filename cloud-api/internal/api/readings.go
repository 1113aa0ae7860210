package api

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// maxReadings bounds a page.
const maxReadings = 10_000

// readingJSON is one reading. The payload is always text, so that what went in
// comes out bit for bit: bytes that are no UTF-8 are in base64.
type readingJSON struct {
	Agent     string `json:"agent"`
	Epoch     string `json:"epoch"`
	Seq       uint64 `json:"seq"`
	Topic     string `json:"topic"`
	QoS       uint8  `json:"qos"`
	Dup       bool   `json:"dup"`
	Retained  bool   `json:"retained"`
	Payload   string `json:"payload"`
	Encoding  string `json:"payload_encoding"`
	Recorded  string `json:"recorded_at"`
	Corrected string `json:"corrected_at"`
	Received  string `json:"received_at"`
}

func readingOf(r *store.Reading) readingJSON {
	out := readingJSON{
		Agent: r.Agent, Epoch: r.Epoch.String(), Seq: r.Seq, Topic: r.Topic, QoS: r.QoS, Dup: r.Dup, Retained: r.Retained,
		Recorded: instantText(r.Recorded), Corrected: instantText(r.Corrected), Received: instantText(r.Received),
	}
	if utf8.Valid(r.Payload) {
		out.Payload, out.Encoding = string(r.Payload), "utf-8"
	} else {
		out.Payload, out.Encoding = base64.StdEncoding.EncodeToString(r.Payload), "base64"
	}
	return out
}

// instantText is a time with all its nanoseconds, so that texts order as times do.
func instantText(ns int64) string {
	return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

func (s *Server) readings(c *fiber.Ctx) error {
	p := parameters(c, "agent", "topic", "from", "to", "limit", "cursor", "order")
	q := store.Query{
		Agent: p.agent("agent"), Topic: p.text("topic"), From: p.instant("from"), To: p.instant("to"),
		Limit: p.limit(1000, maxReadings), Cursor: p.text("cursor"), Desc: p.oneOf("order", "asc", "asc", "desc") == "desc",
	}
	if q.Topic != "" && !store.ValidFilter(q.Topic) {
		p.fail("topic: want an MQTT topic filter, such as plant/+/temperature or plant/#")
	}
	if p.fault != nil {
		return p.fault
	}
	ctx, cancel := work()
	defer cancel()
	page, err := s.opt.Store.Readings(ctx, q)
	if err != nil {
		return failure(err)
	}
	out := struct {
		Readings []readingJSON `json:"readings"`
		Next     string        `json:"next,omitempty"`
	}{Readings: make([]readingJSON, 0, len(page.Readings)), Next: page.Next}
	for i := range page.Readings {
		out.Readings = append(out.Readings, readingOf(&page.Readings[i]))
	}
	return c.JSON(out)
}

// quarantinedJSON is one frame kept raw, or a sample of a rejected event.
type quarantinedJSON struct {
	ID       int64      `json:"id"`
	Agent    string     `json:"agent"` // as claimed
	Trusted  bool       `json:"trusted"`
	Epoch    string     `json:"epoch"`
	Seqs     *rangeJSON `json:"seqs"`
	Why      string     `json:"why"`
	Size     int        `json:"size"`
	Received time.Time  `json:"received_at"`
	Raw      []byte     `json:"raw,omitempty"`
}

func quarantinedOf(q *store.Quarantined) quarantinedJSON {
	out := quarantinedJSON{ID: q.ID, Agent: q.Agent, Trusted: q.Trusted, Epoch: epochText(q.Epoch), Why: q.Why, Size: q.Size, Received: q.Received, Raw: q.Raw}
	if q.Seqs.First > 0 {
		out.Seqs = &rangeJSON{q.Seqs.First, q.Seqs.Last}
	}
	return out
}

func (s *Server) quarantine(c *fiber.Ctx) error {
	p := parameters(c, "below", "limit")
	limit := p.limit(100, 1000)
	below, err := strconv.ParseInt("0"+p.text("below"), 10, 64)
	if err != nil {
		p.fail("below: want the id of a frame")
	}
	if p.fault != nil {
		return p.fault
	}
	ctx, cancel := work()
	defer cancel()
	list, err := s.opt.Store.Quarantine(ctx, below, limit)
	if err != nil {
		return failure(err)
	}
	out := struct {
		Frames []quarantinedJSON `json:"frames"`
		Next   int64             `json:"next,omitempty"`
	}{Frames: []quarantinedJSON{}}
	for i := range list {
		out.Frames = append(out.Frames, quarantinedOf(&list[i]))
	}
	if len(list) == limit {
		out.Next = list[limit-1].ID
	}
	return c.JSON(out)
}

func (s *Server) quarantined(c *fiber.Ctx) error {
	id, err := strconv.ParseInt(c.Params("id"), 10, 64)
	if err != nil {
		return problem.New(http.StatusNotFound, "no quarantined frame can have this id")
	}
	ctx, cancel := work()
	defer cancel()
	q, err := s.opt.Store.QuarantinedFrame(ctx, id)
	if err != nil {
		return failure(err)
	}
	return c.JSON(quarantinedOf(&q))
}
