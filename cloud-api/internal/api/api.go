// Package api is what people and programs ask the cloud: agents, their ledgers,
// readings, series, live readings, and enrolment. It reads the store and changes
// nothing in it but who is let in and the alarms that somebody looked at, and
// answers every error as a problem document.
package api

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/feed"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Store is what the API reads.
type Store interface {
	Agent(ctx context.Context, name string) (store.Agent, error)
	Agents(ctx context.Context, after string, limit int) ([]store.Agent, error)
	Epochs(ctx context.Context, agent string, below telemetry.Epoch, limit int) ([]store.Epoch, error)
	Readings(ctx context.Context, q store.Query) (store.Page, error)
	Topics(ctx context.Context, agent, after string, limit int) ([]store.Topic, error)
	Quarantine(ctx context.Context, below int64, limit int) ([]store.Quarantined, error)
	QuarantinedFrame(ctx context.Context, id int64) (store.Quarantined, error)
	Values(ctx context.Context, agent, topic string, from, to int64, f func(at int64, payload []byte) error) error
	Backlog(ctx context.Context, agent string, from, to time.Time, limit int) ([]store.Sample, error)
	Acknowledge(ctx context.Context, agent string) error
	Revoke(ctx context.Context, agent string, at time.Time) error
}

// Feed shows live readings.
type Feed interface {
	Watch(ctx context.Context, since int64) (*feed.Watcher, error)
}

// Enroller lets devices in.
type Enroller interface {
	Enrol(ctx context.Context, r telemetry.EnrolRequest) (telemetry.EnrolResponse, error)
}

// Options is what a Server needs.
type Options struct {
	Store     Store
	Enroller  Enroller
	Tell      func(agent string)                                    // sends an agent a receipt, soon; nil: it hears when it next sends
	Ready     func(ctx context.Context) (notes []string, err error) // why the server is not ready, or what is worth knowing
	Access    *Access                                               // nil: everybody may do everything
	Feed      Feed
	Dashboard func(fiber.Router) error
	Version   string
	Logger    *slog.Logger
	Gatherer  prometheus.Gatherer

	Registerer prometheus.Registerer // of the API's own metrics; nil: none
}

// Server is the public listener.
type Server struct {
	opt   Options
	fiber *fiber.App
	limit *limiter

	counted *metrics
}

// requestTime bounds the work on one request.
const requestTime = 10 * time.Second

// New returns a Server; Serve starts it. It fails when the dashboard does.
func New(o Options) (*Server, error) {
	s := &Server{opt: o, limit: newLimiter(), counted: newMetrics(o.Registerer)}
	s.fiber = fiber.New(fiber.Config{
		BodyLimit: 64 << 10, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ReadBufferSize:        16 << 10, // headers: tokens of an identity provider are several KiB
		DisableStartupMessage: true, ErrorHandler: problem.Handler(o.Logger),
		StreamRequestBody: false,
		ReduceMemoryUsage: true, // a connection that is idle or watches keeps no buffer for requests
	})
	s.fiber.Server().HeaderReceived = streamTimeouts
	s.fiber.Use(requestID, accessLog(o.Logger), problem.Recover(o.Logger), securityHeaders)
	if err := s.routes(); err != nil {
		return nil, err
	}
	return s, nil
}

// Serve answers on ln until Shutdown.
func (s *Server) Serve(ln net.Listener) error { return s.fiber.Listener(ln) }

// Shutdown stops listening and waits for the requests in hand.
func (s *Server) Shutdown(ctx context.Context) error { return s.fiber.ShutdownWithContext(ctx) }

func (s *Server) healthz(r *request) error { return r.SendString("ok\n") }

// metrics are of all agents together.
func (s *Server) metrics(r *request) error {
	if len(r.caller.Agents) > 0 {
		return problem.New(http.StatusForbidden, "this needs a token that may see all agents")
	}
	return adaptor.HTTPHandler(promhttp.HandlerFor(s.opt.Gatherer, promhttp.HandlerOpts{}))(r.Ctx)
}

func (s *Server) readyz(r *request) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	notes, err := s.opt.Ready(ctx)
	if err != nil {
		return problem.New(http.StatusServiceUnavailable, "not ready: "+err.Error())
	}
	return r.SendString(strings.Join(append([]string{"ready"}, notes...), "\nnote: ") + "\n")
}

// work gives a request's work its time limit.
func work() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), requestTime)
}

// failure maps the store's errors to problems; others stay errors and are
// logged.
func failure(err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return problem.New(http.StatusNotFound, "not known here")
	case errors.Is(err, store.ErrCursor):
		return problem.New(http.StatusBadRequest, "cursor: want the `next` of the page before, unchanged")
	case errors.Is(err, context.DeadlineExceeded):
		return problem.New(http.StatusServiceUnavailable, fmt.Sprintf("the answer took longer than %s: narrow it by agent, topic or time", requestTime))
	case errors.Is(err, store.ErrUnavailable):
		return problem.New(http.StatusServiceUnavailable, "the database is not available; try again in some seconds")
	}
	return err
}

func (s *Server) enrol(r *request) error {
	req, err := telemetry.ParseEnrolRequest(r.Request().Body())
	if err != nil {
		return problem.New(http.StatusBadRequest, err.Error())
	}
	ctx, cancel := work()
	defer cancel()
	resp, err := s.opt.Enroller.Enrol(ctx, req)
	switch {
	case errors.Is(err, store.ErrToken), errors.Is(err, telemetry.ErrEnrol):
		s.opt.Logger.Warn("api: enrolment refused", "agent", req.Agent, "token", req.TokenID, "error", err)
		return problem.New(http.StatusForbidden, "the token is unknown, expired, used up or not for this agent: make a new one with `cloud-api token create`")
	case err != nil:
		return failure(err)
	}
	s.opt.Logger.Info("api: agent enrolled", "agent", req.Agent, "token", req.TokenID, "key", telemetry.Fingerprint(ed25519.PublicKey(req.PublicKey)))
	return r.JSON(resp)
}

// me tells the caller what it may do; the dashboard asks it first.
func (s *Server) me(r *request) error {
	role := "read"
	if r.caller.Role == Admin {
		role = "admin"
	}
	return r.JSON(fiber.Map{"name": r.caller.Name, "role": role, "agents": r.caller.Agents, "version": s.opt.Version})
}
