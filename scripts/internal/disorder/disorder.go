// Package disorder is an HTTP proxy between a sidecar and its app that does to
// deliveries what brokers and networks may do: it repeats them, holds them back
// until later ones have passed, and loses the answer to what was done. Nothing
// is ever lost silently: a caller either gets the app's answer or is told to try
// again.
package disorder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Habits say what happens to a delivery. The zero value is an orderly proxy.
// Chances are from 0 to 1 and independent of each other.
type Habits struct {
	Repeat   float64       // it is delivered once more, after up to Hold
	Delay    float64       // it is held back for up to Hold first
	Unanswer float64       // it is delivered, and its caller told 500
	Refuse   float64       // it is not delivered, and its caller told 500
	Hold     time.Duration // at most
}

// Stats counts what was done to deliveries.
type Stats struct{ Delivered, Repeated, Delayed, Unanswered, Refused uint64 }

// maxBody is more than daprd makes of the largest frame.
const maxBody = 16 << 20

// Proxy is a running proxy. Make it with Listen.
type Proxy struct {
	target string
	addr   string
	server http.Server
	client http.Client
	habits atomic.Pointer[Habits]

	delivered, repeated, delayed, unanswered, refused atomic.Uint64

	ctx    context.Context // of repetitions
	cancel context.CancelFunc
	mu     sync.Mutex // none is begun once closed
	closed bool
	wg     sync.WaitGroup
}

// Listen opens a proxy on addr (127.0.0.1:0 picks a port) that leads to target.
// It is orderly until Set.
func Listen(addr, target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open proxy: %w", err)
	}
	p := &Proxy{target: target, addr: ln.Addr().String()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.client.Transport = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	p.server = http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	p.Set(Habits{})
	p.wg.Go(func() { _ = p.server.Serve(ln) }) // it ends with Close
	return p, nil
}

// Addr is where the sidecar connects.
func (p *Proxy) Addr() string { return p.addr }

// Set changes the habits for deliveries from now on.
func (p *Proxy) Set(h Habits) { p.habits.Store(&h) }

// Stats returns the counts so far.
func (p *Proxy) Stats() Stats {
	return Stats{p.delivered.Load(), p.repeated.Load(), p.delayed.Load(), p.unanswered.Load(), p.refused.Load()}
}

// Close ends the proxy and what it still holds back, and waits.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	err := p.server.Close()
	p.wg.Wait()
	p.client.CloseIdleConnections()
	return err
}

// ServeHTTP passes one request on. Only deliveries, which are POSTs, suffer.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body ended early", http.StatusBadRequest)
		return
	}
	d := delivery{r.Method, r.URL.RequestURI(), r.Header.Clone(), body}
	if r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, "/ingest/") {
		p.answer(r.Context(), w, d)
		return
	}
	h := p.habits.Load()
	if happens(h.Refuse) {
		p.refused.Add(1)
		http.Error(w, "refused on purpose", http.StatusInternalServerError)
		return
	}
	if happens(h.Delay) {
		p.delayed.Add(1)
		pause(r.Context(), h.Hold)
	}
	if happens(h.Repeat) {
		defer p.again(d, h.Hold)
	}
	p.delivered.Add(1)
	if happens(h.Unanswer) {
		p.unanswered.Add(1)
		_, _, _ = p.pass(r.Context(), d) // whatever it says, the caller will not hear it
		http.Error(w, "the answer was lost on purpose", http.StatusInternalServerError)
		return
	}
	p.answer(r.Context(), w, d)
}

// delivery is a request that can be sent any number of times.
type delivery struct {
	method, uri string
	header      http.Header
	body        []byte
}

// again repeats a delivery, in a while.
func (p *Proxy) again(d delivery, hold time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.repeated.Add(1)
	p.wg.Go(func() {
		pause(p.ctx, hold)
		_, _, _ = p.pass(p.ctx, d) // nobody waits for it
	})
}

func (p *Proxy) answer(ctx context.Context, w http.ResponseWriter, d delivery) {
	resp, body, err := p.pass(ctx, d)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body) // a caller that went away will ask again
}

func (p *Proxy) pass(ctx context.Context, d delivery) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, d.method, "http://"+p.target+d.uri, bytes.NewReader(d.body))
	if err != nil {
		return nil, nil, err
	}
	req.Header = d.header.Clone()
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp, body, err
}

func happens(chance float64) bool { return chance > 0 && rand.Float64() < chance }

// pause waits for up to most.
func pause(ctx context.Context, most time.Duration) {
	if most <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(most)):
	}
}
