package problem

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
)

// Whatever goes wrong is answered as a problem document: with its own words when
// it is meant for the caller, and without any when it is not.
func TestHandler(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	app := fiber.New(fiber.Config{ErrorHandler: Handler(logger), DisableStartupMessage: true})
	app.Use(Recover(logger))
	app.Get("/mine", func(*fiber.Ctx) error { return New(http.StatusConflict, "already there") })
	app.Get("/ours", func(*fiber.Ctx) error { return errors.New("SELECT secret FROM /var/lib") })
	app.Get("/panic", func(*fiber.Ctx) error { panic("BUG: secret") })
	app.Get("/fiber", func(*fiber.Ctx) error { return fiber.ErrUnprocessableEntity })
	app.Get("/inside", func(*fiber.Ctx) error { return fiber.NewError(http.StatusBadGateway, "secret") })
	for path, want := range map[string]struct {
		status int
		detail string
	}{
		"/mine": {409, "already there"}, "/ours": {500, "request id"}, "/panic": {500, "could not answer"}, "/fiber": {422, ""}, "/inside": {500, "request id"}, "/none": {404, ""},
	} {
		resp, err := app.Test(httptest.NewRequest(http.MethodGet, path, nil))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var p Problem
		if err := json.Unmarshal(b, &p); err != nil || resp.StatusCode != want.status || p.Status != want.status || p.ID == "" || !strings.Contains(p.Detail, want.detail) ||
			resp.Header.Get("Content-Type") != ContentType || strings.Contains(string(b), "secret") {
			t.Errorf("%s: %d %s, %v", path, resp.StatusCode, b, err)
		}
	}
	if l := log.String(); !strings.Contains(l, "SELECT secret") || !strings.Contains(l, "BUG: secret") || !strings.Contains(l, "problem_test.go") {
		t.Errorf("the log lacks what the answers leave out: %s", l)
	}
}

// A problem is an error with its words.
func TestError(t *testing.T) {
	if got := New(http.StatusTeapot, "short and stout").Error(); got != "I'm a teapot: short and stout" {
		t.Error(got)
	}
}
