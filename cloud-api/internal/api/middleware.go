package api

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
)

// requestID gives every request an id: the caller's, when it is a plain short
// word, or a random one.
func requestID(c *fiber.Ctx) error {
	id := strings.Clone(c.Get("X-Request-Id"))
	if !plain(id) {
		id = rand.Text()
	}
	c.Locals("request-id", id)
	c.Set("X-Request-Id", id)
	return c.Next()
}

func plain(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return false
		}
	}
	return true
}

// accessLog logs each request after it was answered: failures as warnings, the
// rest only where somebody asked for it.
func accessLog(log *slog.Logger) fiber.Handler {
	return func(c *fiber.Ctx) error {
		start := time.Now()
		err := c.Next()
		status := statusAfter(c, err)
		level := slog.LevelDebug
		if status >= http.StatusInternalServerError {
			level = slog.LevelWarn
		}
		log.Log(c.Context(), level, "http: request", "request_id", c.Locals("request-id"), "method", strings.Clone(c.Method()),
			"path", strings.Clone(c.Path()), "status", status, "ms", time.Since(start).Milliseconds())
		return err
	}
}

// statusAfter returns the status of the answer after a handler returned err.
func statusAfter(c *fiber.Ctx, err error) int {
	var p *problem.Problem
	var fe *fiber.Error
	switch {
	case err == nil:
		return c.Response().StatusCode()
	case errors.As(err, &p):
		return p.Status
	case errors.As(err, &fe):
		return fe.Code
	}
	return http.StatusInternalServerError
}

// securityHeaders makes a browser run only the page's own scripts and show it
// in no other page.
func securityHeaders(c *fiber.Ctx) error {
	c.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	c.Set("X-Content-Type-Options", "nosniff")
	c.Set("Referrer-Policy", "no-referrer")
	c.Set("Cross-Origin-Opener-Policy", "same-origin")
	c.Set("Cross-Origin-Resource-Policy", "same-origin")
	c.Set("Cache-Control", "no-store")
	return c.Next()
}
