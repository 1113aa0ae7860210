package dapr

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// bodyLimit is the largest event: a frame in base64 is 1.34 times its size,
	// and the envelope takes some headers.
	bodyLimit = telemetry.MaxFrame*7/5 + 64<<10
	// takeTime bounds the work on one event; then the sidecar is told to
	// deliver it again.
	takeTime = 30 * time.Second
)

// success is the answer that takes an event off the broker.
var success = []byte(`{"status":"SUCCESS"}`)

// Taker takes one frame; see ingest.Service.Take.
type Taker interface {
	Take(ctx context.Context, raw []byte) error
}

// AppOptions is what an App needs.
type AppOptions struct {
	Taker  Taker
	Token  string      // that the sidecar has to show; empty: none
	Ready  func() bool // false: every event is to be delivered later
	Logger *slog.Logger
}

// App is the listener for the sidecar. Every answer but 200 makes the sidecar
// deliver the event again; 404, which would drop it, is never given.
type App struct {
	opt   AppOptions
	fiber *fiber.App
}

// NewApp returns an App; Serve starts it.
func NewApp(o AppOptions) *App {
	a := &App{opt: o}
	a.fiber = fiber.New(fiber.Config{
		BodyLimit: bodyLimit, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ReadBufferSize: 64 << 10, DisableStartupMessage: true, ErrorHandler: problem.Handler(o.Logger),
	})
	a.fiber.Use(problem.Recover(o.Logger), a.authorize)
	a.fiber.Get("/healthz", func(c *fiber.Ctx) error { return c.SendString("ok\n") })
	a.fiber.Get("/dapr/config", func(c *fiber.Ctx) error { return c.JSON(fiber.Map{}) })
	a.fiber.Get("/dapr/subscribe", func(c *fiber.Ctx) error { return c.JSON([]any{}) }) // subscriptions are declared in files
	a.fiber.Post("/ingest/live", a.ingest)
	a.fiber.Post("/ingest/backlog", a.ingest)
	a.fiber.Use(func(c *fiber.Ctx) error {
		o.Logger.Error("app: event on a route that does not exist: check the routes of the subscription", "method", c.Method(), "path", string(bytes.Clone(c.Request().URI().Path())))
		return problem.New(http.StatusNotImplemented, "no such route; the events go to /ingest/live and /ingest/backlog")
	})
	return a
}

// Serve answers on ln until Shutdown.
func (a *App) Serve(ln net.Listener) error { return a.fiber.Listener(ln) }

// Shutdown stops listening and waits for the events in hand.
func (a *App) Shutdown(ctx context.Context) error { return a.fiber.ShutdownWithContext(ctx) }

func (a *App) authorize(c *fiber.Ctx) error {
	if a.opt.Token == "" || c.Path() == "/healthz" {
		return c.Next()
	}
	if subtle.ConstantTimeCompare([]byte(c.Get("dapr-api-token")), []byte(a.opt.Token)) != 1 {
		return problem.New(http.StatusForbidden, "the header dapr-api-token is missing or wrong: the sidecar needs APP_API_TOKEN")
	}
	return c.Next()
}

func (a *App) ingest(c *fiber.Ctx) error {
	if !a.opt.Ready() {
		return problem.New(http.StatusServiceUnavailable, "not ready; deliver the event again")
	}
	// Not c.Body(): it decompresses without a bound.
	raw, err := Payload(c.Get(fiber.HeaderContentType), c.Request().Body())
	if err != nil {
		a.opt.Logger.Debug("app: event without a frame", "error", err)
		raw = nil // goes the way of every other event that is no frame: counted, sampled, dropped
	}
	ctx, cancel := context.WithTimeout(context.Background(), takeTime)
	defer cancel()
	if err := a.opt.Taker.Take(ctx, raw); err != nil {
		a.opt.Logger.Warn("app: event to be delivered again", "error", err)
		return problem.New(http.StatusInternalServerError, "not stored; deliver the event again")
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return c.Send(success)
}

// ErrEvent is returned by Payload for a body that carries no payload.
var ErrEvent = errors.New("event has no data_base64")

var dataKey = []byte(`"data_base64":"`)

// Payload returns the raw payload of an event: the body itself, or the
// data_base64 of the CloudEvent that Dapr wraps it in. It decodes in place.
func Payload(contentType string, body []byte) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(contentType); err == nil && kind == fiber.MIMEOctetStream {
		return body, nil
	}
	// The value of a string in JSON cannot contain the key with its quotes, so
	// the first match is a key, and base64 needs no escapes. This spares parsing
	// a megabyte of JSON twice.
	if i := bytes.Index(body, dataKey); i >= 0 {
		text := body[i+len(dataKey):]
		if end := bytes.IndexByte(text, '"'); end >= 0 {
			n, err := base64.StdEncoding.Decode(text[:end], text[:end])
			return text[:n], err
		}
	}
	var event struct {
		Data []byte `json:"data_base64"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return nil, err
	}
	if event.Data == nil {
		return nil, ErrEvent
	}
	return event.Data, nil
}
