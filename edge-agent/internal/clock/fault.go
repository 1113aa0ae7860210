//go:build faults

package clock

import (
	"encoding/json"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// FaultVariable names the file that a test steers the clock with. It is read
// at each look at the clock and holds JSON, such as
// {"step": "-1h", "synchronised": false}, or {"wall": "1970-01-01T00:00:09Z"}.
const FaultVariable = "HOLDFAST_FAULT_CLOCK"

func fault(c Clock) Clock {
	if path := os.Getenv(FaultVariable); path != "" {
		return &faulty{Clock: c, path: path, start: c.Now()}
	}
	return c
}

type faulty struct {
	Clock
	path  string
	start telemetry.Instant
}

type orders struct {
	Step         string     `json:"step"` // added to the wall clock
	Wall         *time.Time `json:"wall"` // what the wall clock said when the process started
	Synchronised *bool      `json:"synchronised"`
}

func (f *faulty) orders() (o orders) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return orders{}
	}
	if err := json.Unmarshal(text, &o); err != nil {
		panic("fault clock: " + err.Error())
	}
	return o
}

func (f *faulty) Now() telemetry.Instant {
	now, o := f.Clock.Now(), f.orders()
	if o.Wall != nil {
		now.Wall = o.Wall.UnixNano() + int64(now.Boot-f.start.Boot)
	}
	if o.Step != "" {
		step, err := time.ParseDuration(o.Step)
		if err != nil {
			panic("fault clock: " + err.Error())
		}
		now.Wall += int64(step)
	}
	return now
}

func (f *faulty) Sync() Sync {
	s := f.Clock.Sync()
	if o := f.orders(); o.Synchronised != nil {
		s.Synchronised = *o.Synchronised
	}
	return s
}
