package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// maxReadings bounds a page.
const maxReadings = 10_000

func (s *Server) readings(r *request) error {
	q := store.Query{
		Agent: r.agent("agent"), Topic: r.text("topic"), From: r.instant("from"), To: r.instant("to"),
		Limit: r.number("limit", 1000, maxReadings), Cursor: r.text("cursor"), Desc: r.oneOf("order", "asc", "asc", "desc") == "desc",
		Allow: r.caller.allow(),
	}
	if q.Topic != "" && !store.ValidFilter(q.Topic) {
		r.fail("topic: want an MQTT topic filter, such as plant/+/temperature or plant/#")
	}
	kind := r.Accepts(format.JSON, format.NDJSON, format.CSV, format.Parquet)
	if r.fault != nil {
		return r.fault
	}
	if kind == "" {
		return problem.New(http.StatusNotAcceptable, "readings come as "+strings.Join([]string{format.JSON, format.NDJSON, format.CSV, format.Parquet}, ", "))
	}
	if q.Agent != "" && !r.caller.sees(q.Agent) {
		return problem.New(http.StatusNotFound, "not known here")
	}
	ctx, cancel := work()
	defer cancel()
	page, err := s.opt.Store.Readings(ctx, q)
	if err != nil {
		return failure(err)
	}
	if kind != format.JSON {
		return r.write(kind, page)
	}
	out := struct {
		Readings []format.Reading `json:"readings"`
		Next     string           `json:"next,omitempty"`
	}{Readings: make([]format.Reading, 0, len(page.Readings)), Next: page.Next}
	for i := range page.Readings {
		out.Readings = append(out.Readings, format.Of(&page.Readings[i]))
	}
	return r.JSON(out)
}

// write answers with a page in another format; where the next page begins is in
// a header.
func (r *request) write(kind string, page store.Page) error {
	w, err := format.NewWriter(r.Response().BodyWriter(), kind)
	if err != nil {
		return err
	}
	for i := range page.Readings {
		if err := w.Write(&page.Readings[i]); err != nil {
			return err
		}
	}
	if page.Next != "" {
		r.Set("Next-Cursor", page.Next)
	}
	r.Set(fiber.HeaderContentType, kind)
	return w.Close()
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

func (s *Server) quarantine(r *request) error {
	limit := r.number("limit", 100, 1000)
	below, err := strconv.ParseInt("0"+r.text("below"), 10, 64)
	if err != nil {
		r.fail("below: want the id of a frame")
	}
	if r.fault != nil {
		return r.fault
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
		if r.caller.sees(list[i].Agent) {
			out.Frames = append(out.Frames, quarantinedOf(&list[i]))
		}
	}
	if len(list) == limit {
		out.Next = list[limit-1].ID
	}
	return r.JSON(out)
}

func (s *Server) quarantined(r *request) error {
	id, err := strconv.ParseInt(r.Params("id"), 10, 64)
	if err != nil {
		return problem.New(http.StatusNotFound, "no quarantined frame can have this id")
	}
	ctx, cancel := work()
	defer cancel()
	q, err := s.opt.Store.QuarantinedFrame(ctx, id)
	if err == nil && !r.caller.sees(q.Agent) {
		err = store.ErrNotFound
	}
	if err != nil {
		return failure(err)
	}
	return r.JSON(quarantinedOf(&q))
}
