package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/retry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	enrolmentFile = "enrolment.json"
	// enrolTimeout is for one try over a slow link.
	enrolTimeout = 30 * time.Second
	// firstEnrol and lastEnrol bound the wait between tries.
	firstEnrol = 2 * time.Second
	lastEnrol  = 5 * time.Minute
	// lookAtEnrolment is how soon a running agent notices that it was enrolled.
	lookAtEnrolment = 2 * time.Second
)

// errDenied says that the cloud will answer the same the next time.
var errDenied = errors.New("the cloud refuses the token")

// Enrolment is what the agent keeps of the cloud it belongs to.
type Enrolment struct {
	Cloud string            `json:"cloud"`
	Agent string            `json:"agent"`
	Root  ed25519.PublicKey `json:"root"`
	At    time.Time         `json:"enrolled_at"` // by the device's clock, right or not
}

// Enrolled returns the enrolment kept in the data folder; os.ErrNotExist when
// there is none.
func Enrolled(dir string) (Enrolment, error) {
	path := filepath.Join(dir, enrolmentFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return Enrolment{}, fmt.Errorf("read enrolment: %w", err)
	}
	var e Enrolment
	if err := json.Unmarshal(text, &e); err != nil {
		return Enrolment{}, fmt.Errorf("read enrolment %s: %w", path, err)
	}
	if len(e.Root) != ed25519.PublicKeySize {
		return Enrolment{}, fmt.Errorf("read enrolment %s: root key of %d bytes, want %d", path, len(e.Root), ed25519.PublicKeySize)
	}
	return e, nil
}

// Request makes an enrolment request for the key in the data folder; both are
// made where they are not there.
func Request(dir, agent string, tok telemetry.Token) (telemetry.EnrolRequest, error) {
	if err := openData(dir); err != nil {
		return telemetry.EnrolRequest{}, err
	}
	key, err := LoadOrMakeKey(dir)
	if err != nil {
		return telemetry.EnrolRequest{}, err
	}
	return telemetry.NewEnrolRequest(tok, agent, key)
}

// Accept checks the cloud's answer against token and request, and pins the root.
func Accept(dir string, tok telemetry.Token, req telemetry.EnrolRequest, answer []byte) (Enrolment, error) {
	resp, err := telemetry.ParseEnrolResponse(answer)
	if err != nil {
		return Enrolment{}, err
	}
	root, err := resp.Verify(tok, req)
	if err != nil {
		return Enrolment{}, err
	}
	e := Enrolment{Cloud: resp.Cloud, Agent: resp.Agent, Root: root, At: time.Now().UTC()}
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return Enrolment{}, fmt.Errorf("keep enrolment: %w", err)
	}
	if err := writeFile(filepath.Join(dir, enrolmentFile), append(text, '\n')); err != nil {
		return Enrolment{}, fmt.Errorf("keep enrolment: %w", err)
	}
	return e, nil
}

// Enrol asks the cloud at url, once. The token's secret does not travel, so that
// plain HTTP gives nothing away either.
func Enrol(ctx context.Context, dir, agent, url string, tok telemetry.Token) (Enrolment, error) {
	req, err := Request(dir, agent, tok)
	if err != nil {
		return Enrolment{}, err
	}
	answer, err := ask(ctx, strings.TrimRight(url, "/")+"/v1/enrol", req)
	if err != nil {
		return Enrolment{}, fmt.Errorf("ask the cloud: %w", err)
	}
	return Accept(dir, tok, req, answer)
}

func ask(ctx context.Context, url string, req telemetry.EnrolRequest) ([]byte, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	post.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(post)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, telemetry.MaxEnrol+1))
	if err != nil {
		return nil, err
	}
	return answer, answered(resp.StatusCode, answer)
}

// answered tells a refusal, which stays one, from a cloud that is not there yet.
func answered(code int, answer []byte) error {
	switch {
	case code == http.StatusOK:
		return nil
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500 || code == http.StatusNotFound:
		return fmt.Errorf("status %d: %.200q", code, answer)
	default:
		return fmt.Errorf("%w: status %d: %.200q", errDenied, code, answer)
	}
}

// roots gives the pinned root key to whoever verifies receipts, as soon as there
// is one: an agent is enrolled while it runs.
type roots struct {
	dir     string
	agent   string
	log     *slog.Logger
	current atomic.Pointer[Enrolment]
}

// Root returns nil while the agent is not enrolled.
func (r *roots) Root() ed25519.PublicKey {
	if e := r.current.Load(); e != nil {
		return e.Root
	}
	return nil
}

// Run looks at the enrolment until ctx ends.
func (r *roots) Run(ctx context.Context) error {
	tick := time.NewTicker(lookAtEnrolment)
	defer tick.Stop()
	var said string
	for {
		if trouble := r.look(); trouble != said {
			said = trouble
			if trouble != "" {
				r.log.Warn("not enrolled", "reason", trouble)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *roots) look() (trouble string) {
	e, err := Enrolled(r.dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "no enrolment yet: readings are stored and wait; run `edge-agent enroll`"
	case err != nil:
		return err.Error()
	case e.Agent != r.agent:
		return fmt.Sprintf("the enrolment is for agent %s, this is %s: enrol it with a new token", e.Agent, r.agent)
	}
	if before := r.current.Swap(&e); before == nil || !before.Root.Equal(e.Root) {
		r.log.Info("enrolled", "cloud", e.Cloud, "root", telemetry.Fingerprint(e.Root))
	}
	return ""
}

// enroller enrols by itself where settings name a cloud and a token.
type enroller struct {
	dir, agent, url, tokenFile string
	log                        *slog.Logger
}

// Run tries until the agent is enrolled, and returns when ctx ends. The token
// file is read at each try: a refused token can be replaced while it runs.
func (e *enroller) Run(ctx context.Context) error {
	pause := retry.Pause{First: firstEnrol, Last: lastEnrol}
	for ctx.Err() == nil {
		if got, err := Enrolled(e.dir); err == nil && got.Agent == e.agent {
			break
		}
		err := e.once(ctx)
		if err == nil {
			break
		}
		if errors.Is(err, errDenied) {
			pause.Longest() // a person has to do something first
		}
		e.log.Warn("enrolment: retrying", "url", e.url, "wait", pause.Next().String(), "error", err)
		pause.Sleep(ctx)
	}
	<-ctx.Done()
	return nil
}

func (e *enroller) once(ctx context.Context) error {
	text, err := os.ReadFile(e.tokenFile)
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	tok, err := telemetry.ParseToken(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	_, err = Enrol(ctx, e.dir, e.agent, e.url, tok)
	return err
}
