package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
)

// Role is what a caller has to be.
type Role int

// The roles, each allowed what the ones before it are.
const (
	Anyone Role = iota // no token needed
	Reader
	Admin
)

// Route is one address of the API. Parameters other than those listed are
// refused: a typing error in a filter must not answer everything.
type Route struct {
	Method string
	Path   string // as in OpenAPI: {id}
	Role   Role
	Query  []string

	handle func(s *Server, r *request) error
}

// Routes is the API. The OpenAPI document describes the same, which a test
// holds it to.
func Routes() []Route {
	return []Route{
		{http.MethodGet, "/healthz", Anyone, nil, (*Server).healthz},
		{http.MethodGet, "/readyz", Anyone, nil, (*Server).readyz},
		{http.MethodGet, "/metrics", Reader, nil, (*Server).metrics},
		{http.MethodGet, "/v1/openapi.json", Anyone, nil, (*Server).openapi},
		{http.MethodPost, "/v1/enrol", Anyone, nil, (*Server).enrol},
		{http.MethodGet, "/v1/me", Reader, nil, (*Server).me},
		{http.MethodGet, "/v1/agents", Reader, []string{"after", "limit"}, (*Server).agents},
		{http.MethodGet, "/v1/agents/{id}", Reader, []string{"below", "limit"}, (*Server).agent},
		{http.MethodGet, "/v1/agents/{id}/topics", Reader, []string{"after", "limit"}, (*Server).topics},
		{http.MethodGet, "/v1/agents/{id}/backlog", Reader, []string{"from", "to"}, (*Server).backlog},
		{http.MethodPost, "/v1/agents/{id}/acknowledge", Admin, nil, (*Server).acknowledge},
		{http.MethodPost, "/v1/agents/{id}/revoke", Admin, nil, (*Server).revoke},
		{http.MethodPost, "/v1/agents/{id}/allow", Admin, nil, (*Server).allow},
		{http.MethodGet, "/v1/readings", Reader, []string{"agent", "topic", "from", "to", "limit", "cursor", "order"}, (*Server).readings},
		{http.MethodGet, "/v1/series", Reader, []string{"agent", "topic", "field", "from", "to", "buckets"}, (*Server).series},
		{http.MethodGet, "/v1/live", Reader, []string{"agent", "topic"}, (*Server).live},
		{http.MethodGet, "/v1/quarantine", Admin, []string{"below", "limit"}, (*Server).quarantine},
		{http.MethodGet, "/v1/quarantine/{id}", Admin, nil, (*Server).quarantined},
	}
}

// request is one call: who asks, and with which parameters.
type request struct {
	*fiber.Ctx
	*params
	caller Caller
}

// path turns an OpenAPI path into Fiber's.
func path(p string) string { return strings.NewReplacer("{", ":", "}", "").Replace(p) }

func (s *Server) routes() error {
	for _, r := range Routes() {
		s.fiber.Add(r.Method, path(r.Path), s.count(r.Path, s.call(r)))
	}
	var err error
	if s.opt.Dashboard != nil {
		err = s.opt.Dashboard(s.fiber)
	}
	s.fiber.Use(nothing)
	return err
}

// count keeps the route's metrics.
func (s *Server) count(route string, next fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		start := time.Now()
		err := next(c)
		s.counted.answered(route, statusAfter(c, err), time.Since(start))
		return err
	}
}

// call checks who asks, how often, and with which parameters.
func (s *Server) call(r Route) fiber.Handler {
	return func(c *fiber.Ctx) error {
		// Who is refused is counted too, by address.
		who, refused := s.opt.Access.caller(c, r.Role)
		if r.Path != "/healthz" && r.Path != "/readyz" && !s.limit.allow(who.key(c)) {
			c.Set(fiber.HeaderRetryAfter, "1")
			return problem.New(http.StatusTooManyRequests, "too many requests; send fewer than 50 a second")
		}
		if refused != nil {
			return refused
		}
		p := parameters(c, r.Query)
		if p.fault != nil {
			return p.fault
		}
		return r.handle(s, &request{c, p, who})
	}
}

// nothing answers what no route does.
func nothing(c *fiber.Ctx) error {
	got := strings.Split(strings.Clone(c.Path()), "/")
	for _, r := range Routes() {
		if r.Method != c.Method() && matches(strings.Split(r.Path, "/"), got) {
			c.Set(fiber.HeaderAllow, r.Method)
			return problem.New(http.StatusMethodNotAllowed, "this address takes "+r.Method)
		}
	}
	return problem.New(http.StatusNotFound, "there is nothing at this address")
}

func matches(pattern, got []string) bool {
	if len(pattern) != len(got) {
		return false
	}
	for i, p := range pattern {
		if p != got[i] && !strings.HasPrefix(p, "{") {
			return false
		}
	}
	return true
}
