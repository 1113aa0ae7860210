package api

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/pointer"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
)

const (
	maxBucketCount      = 2000
	standardBucketCount = 300
	// maxValues is how many readings one series looks at: some seconds' work.
	maxValues = 3_000_000
)

var errTooMany = errors.New("too many readings")

// seriesJSON is one field over time.
type seriesJSON struct {
	Agent    string       `json:"agent"`
	Topic    string       `json:"topic"`
	Field    string       `json:"field"`
	From     string       `json:"from"`
	To       string       `json:"to"`
	Readings int          `json:"readings"`       // looked at
	Without  int          `json:"readings_other"` // of them without a number there
	Buckets  []bucketJSON `json:"buckets"`        // those with a value, ascending
}

type bucketJSON struct {
	At    string  `json:"at"` // where the bucket begins
	Count int     `json:"count"`
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	Avg   float64 `json:"avg"`
	Last  float64 `json:"last"`

	sum float64
}

// series answers with min, max, average, count and last value of one number in
// JSON payloads, in buckets of time.
func (s *Server) series(r *request) error {
	agent, topic, from, to := r.agent("agent"), r.text("topic"), r.instant("from"), r.instant("to")
	field, err := pointer.Parse(r.text("field"))
	n := r.number("buckets", standardBucketCount, maxBucketCount)
	switch {
	case err != nil:
		r.fail("field: %s", err)
	case agent == "" || topic == "" || strings.ContainsAny(topic, "+#"):
		r.fail("agent, topic: want one agent and one topic without wildcards")
	case from == 0 || to == 0 || to <= from:
		r.fail("from, to: want both, in this order")
	}
	if r.fault != nil {
		return r.fault
	}
	if !r.caller.sees(agent) {
		return problem.New(http.StatusNotFound, "not known here")
	}
	sum := newBuckets(from, to, n)
	ctx, cancel := work()
	defer cancel()
	err = s.opt.Store.Values(ctx, agent, topic, from, to, func(at int64, payload []byte) error {
		v, ok := field.Number(payload)
		return sum.add(at, v, ok)
	})
	if errors.Is(err, errTooMany) {
		return problem.New(http.StatusUnprocessableEntity, fmt.Sprintf("there are more than %d readings between from and to: ask for a shorter time", maxValues))
	}
	if err != nil {
		return failure(err)
	}
	return r.JSON(seriesJSON{
		Agent: agent, Topic: topic, Field: r.text("field"), From: format.Instant(from), To: format.Instant(to),
		Readings: sum.readings, Without: sum.without, Buckets: sum.done(),
	})
}

// buckets sums up values that come in the order of time.
type buckets struct {
	from, width       int64
	list              []bucketJSON
	current           int64
	readings, without int
}

func newBuckets(from, to int64, n int) *buckets {
	return &buckets{from: from, width: max(1, (to-from+int64(n)-1)/int64(n)), current: -1, list: []bucketJSON{}}
}

func (b *buckets) add(at int64, v float64, ok bool) error {
	if b.readings++; b.readings > maxValues {
		return errTooMany
	}
	if !ok {
		b.without++
		return nil
	}
	if i := (at - b.from) / b.width; i != b.current {
		b.current = i
		b.list = append(b.list, bucketJSON{At: format.Instant(b.from + i*b.width), Min: math.Inf(1), Max: math.Inf(-1)})
	}
	c := &b.list[len(b.list)-1]
	c.Count++
	c.Min, c.Max, c.Last = min(c.Min, v), max(c.Max, v), v
	c.sum += v
	return nil
}

func (b *buckets) done() []bucketJSON {
	for i := range b.list {
		c := &b.list[i]
		// A sum may be infinite where no value is.
		c.Avg = min(max(c.sum/float64(c.Count), c.Min), c.Max)
	}
	return b.list
}
