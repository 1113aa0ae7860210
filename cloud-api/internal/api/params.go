package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// params reads query parameters and keeps the first fault. Unknown ones are
// faults too: a typing error in a filter must not answer everything.
type params struct {
	values url.Values
	fault  error
}

func parameters(c *fiber.Ctx, known []string) *params {
	v, err := url.ParseQuery(string(c.Request().URI().QueryString()))
	p := &params{values: v}
	if err != nil {
		p.fail("query: %s", err)
	}
	for name := range v {
		if !slices.Contains(known, name) {
			p.fail("%s: unknown parameter; known are %v", name, known)
		} else if len(v[name]) > 1 {
			p.fail("%s: given %d times", name, len(v[name]))
		}
	}
	return p
}

func (p *params) fail(format string, args ...any) {
	if p.fault == nil {
		p.fault = problem.New(http.StatusBadRequest, fmt.Sprintf(format, args...))
	}
}

func (p *params) text(name string) string { return p.values.Get(name) }

func (p *params) agent(name string) string {
	s := p.text(name)
	if s != "" && telemetry.ValidateAgent(s) != nil {
		p.fail("%s: want an agent id, 1 to 63 of a-z, 0-9 and -", name)
	}
	return s
}

func (p *params) number(name string, standard, most int) int {
	s := p.text(name)
	if s == "" {
		return standard
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		p.fail("%s: want 1 to %d", name, most)
	}
	return n
}

// instant reads a time as Unix nanoseconds, 0 when it is not given.
func (p *params) instant(name string) int64 {
	s := p.text(name)
	if s == "" {
		return 0
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		p.fail("%s: want a time such as 2026-05-04T10:00:00Z", name)
		return 0
	}
	return t.UnixNano()
}

func (p *params) oneOf(name, standard string, allowed ...string) string {
	s := p.text(name)
	if s == "" {
		return standard
	}
	if !slices.Contains(allowed, s) {
		p.fail("%s: want one of %v", name, allowed)
	}
	return s
}
