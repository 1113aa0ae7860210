// Package status shows how the agent is: /healthz and /readyz for whoever
// watches over it, /metrics for Prometheus, /v1/status as JSON and a page for
// people. It needs nothing but the process itself, and shows neither payloads
// nor topics.
package status

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The states of a part. Only Failing makes the agent not ready: a sidecar or a
// cloud that is away is what the agent is for.
const (
	OK       = "ok"
	Degraded = "degraded"
	Failing  = "failing"
)

// Units say how a fact's value is shown to people. Others are shown as they are.
const (
	Count   = "count"
	Bytes   = "bytes"
	Seconds = "seconds"
	Text    = "text"
	Yes     = "bool"
)

// Fact is one thing known of a part.
type Fact struct {
	Key   string `json:"key"`
	Label string `json:"label"`
	Value any    `json:"value"` // of a type that its unit allows
	Unit  string `json:"unit"`
}

// Part is intake, outbox, uplink or sidecar.
type Part struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Note  string `json:"note,omitempty"` // why it is not ok, and what to do
	Facts []Fact `json:"facts"`

	Details any `json:"details,omitempty"` // for programs, where facts do not say it all
}

// Report is everything that is shown.
type Report struct {
	Agent   string    `json:"agent"`
	Version string    `json:"version"`
	Epoch   string    `json:"epoch"`
	Started time.Time `json:"started"` // by the device's clock, right or not
	Uptime  float64   `json:"uptime_seconds"`
	Ready   bool      `json:"ready"`
	Parts   []Part    `json:"parts"`
}

// Settle sets Ready from the parts.
func (r *Report) Settle() {
	r.Ready = true
	for _, p := range r.Parts {
		r.Ready = r.Ready && p.State != Failing
	}
}

const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 15 * time.Second
	idleTimeout   = 60 * time.Second
	stopTimeout   = 3 * time.Second
	maxHeader     = 16 << 10
)

// Options is what a Server needs; all must be set.
type Options struct {
	Address  string
	Report   func() Report
	Gatherer prometheus.Gatherer
	Logger   *slog.Logger
}

// Server answers on Address.
type Server struct {
	opts   Options
	listen net.Listener
	http   *http.Server
}

// Listen opens the address, so that a port in use is an error here, and serves
// once Run is called.
func Listen(o Options) (*Server, error) {
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for status on %s (is another agent running? set status.listen to a free port): %w", o.Address, err)
	}
	return &Server{opts: o, listen: l, http: &http.Server{
		Handler: Handler(o), ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}}, nil
}

// Addr returns the address that it listens on.
func (s *Server) Addr() net.Addr { return s.listen.Addr() }

// Close releases the address of a Server that never ran.
func (s *Server) Close() error { return s.listen.Close() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.opts.Logger.Info("status listening", "address", "http://"+s.Addr().String())
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- cmp.Or(s.http.Shutdown(late), s.http.Close())
	}()
	if err := s.http.Serve(s.listen); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve status: %w", err)
	}
	return <-stopped
}

//go:embed assets
var assets embed.FS

// Handler returns the routes without a server round them.
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, map[string]bool{"alive": true}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { readyz(w, o.Report()) })
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o.Report()) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
		MaxRequestsInFlight: 3, // each gathers everything
	}))
	for path, file := range map[string]string{"/{$}": "index.html", "/page.js": "page.js", "/page.css": "page.css"} {
		mux.HandleFunc("GET "+path, asset(file))
	}
	return headers(mux)
}

func readyz(w http.ResponseWriter, r Report) {
	type part struct {
		State string `json:"state"`
		Note  string `json:"note,omitempty"`
	}
	parts := make(map[string]part)
	for _, p := range r.Parts {
		parts[p.Name] = part{p.State, p.Note}
	}
	code := http.StatusOK
	if !r.Ready {
		code = http.StatusServiceUnavailable
	}
	reply(w, code, map[string]any{"ready": r.Ready, "parts": parts})
}

func reply(w http.ResponseWriter, code int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "encode status: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // whoever asked may have gone
}

func asset(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, assets, "assets/"+name) }
}

// headers let the page load nothing from elsewhere and be framed by nobody.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
			"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
