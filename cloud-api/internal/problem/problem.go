// Package problem writes errors as RFC 9457 problem documents. A document never
// carries SQL, a stack or a path of this machine: what is not meant for the
// caller is logged instead.
package problem

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/gofiber/fiber/v2"
)

// ContentType is that of a problem document.
const ContentType = "application/problem+json"

// Problem is an error for the caller.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	ID     string `json:"request_id,omitempty"`
}

// Error returns the title and the detail.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// New returns a problem with the status's usual title.
func New(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// Write answers with p. Who is told to come later does so with a connection of
// its own: a crowd that waits must not be held in memory.
func Write(c *fiber.Ctx, p *Problem) error {
	if p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable {
		c.Response().SetConnectionClose()
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	c.Status(p.Status).Set(fiber.HeaderContentType, ContentType)
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Send(b)
}

// Handler returns a fiber.ErrorHandler: a Problem is written as it is, what
// Fiber refuses keeps its status, and anything else is a 500 that says nothing
// but its request id, under which the error is logged.
func Handler(log *slog.Logger) fiber.ErrorHandler {
	return func(c *fiber.Ctx, err error) error {
		id, _ := c.Locals("request-id").(string)
		if id == "" { // refused before any handler saw it
			id = rand.Text()
		}
		var p *Problem
		var fe *fiber.Error
		switch {
		case errors.As(err, &p):
		case errors.As(err, &fe) && fe.Code < http.StatusInternalServerError:
			p = New(fe.Code, fe.Message)
		default:
			log.Error("http: request failed", "request_id", id, "method", c.Method(), "path", c.Path(), "error", err)
			p = New(http.StatusInternalServerError, "the server could not answer; its log has the request id")
		}
		q := *p
		q.ID = id
		return Write(c, &q)
	}
}

// Recover turns a panic of a later handler into an error and logs its stack.
func Recover(log *slog.Logger) fiber.Handler {
	return func(c *fiber.Ctx) (err error) {
		defer func() {
			if r := recover(); r != nil {
				log.Error("http: panic", "panic", r, "stack", string(debug.Stack()))
				err = New(http.StatusInternalServerError, "the server could not answer")
			}
		}()
		return c.Next()
	}
}
