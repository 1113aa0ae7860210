package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// cloud is a running cloud-api without a sidecar: this program is its sidecar.
type cloud struct {
	cmd         *exec.Cmd
	config      string
	public, app string
	client      *http.Client
	stop        func() error

	mu             sync.Mutex
	maxRSS, maxAll int64 // bytes: anonymous, and all that is resident
}

// start runs the program on a store, given as the lines of its configuration.
func (b *bench) start(ctx context.Context, name, store string) (*cloud, error) {
	dir := filepath.Join(b.work, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	public, err1 := freePort()
	app, err2 := freePort()
	dapr, err3 := freePort() // nobody listens there: receipts are tried in vain
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	c := &cloud{config: filepath.Join(dir, "cloud.yaml"), public: "http://" + public, app: "http://" + app}
	text := fmt.Sprintf("log: {level: error}\npublic: {listen: %q}\napp: {listen: %q}\ndapr: {address: %q}\nkeys: {dir: %q}\nstore: %s\n", public, app, dapr, filepath.Join(dir, "keys"), store)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	c.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	c.cmd = exec.CommandContext(ctx, b.program, "run", "--config", c.config)
	c.cmd.Stderr, c.cmd.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); c.watch(watching) }()
	c.stop = func() error {
		stop()
		<-watched
		return errors.Join(c.cmd.Process.Signal(syscall.SIGTERM), c.cmd.Wait())
	}
	for range 600 {
		if _, err := c.get("/readyz"); err == nil {
			return c, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("cloud-api is not ready after 30 s"), c.stop())
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// watch samples the program's memory twenty times a second.
func (c *cloud) watch(ctx context.Context) {
	for t := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
		if err != nil {
			continue
		}
		var anon, all int64
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64) // of other lines: not used
			switch f[0] {
			case "RssAnon:":
				anon = n << 10
			case "VmRSS:":
				all = n << 10
			}
		}
		c.mu.Lock()
		c.maxRSS, c.maxAll = max(c.maxRSS, anon), max(c.maxAll, all)
		c.mu.Unlock()
	}
}

func (c *cloud) get(path string) ([]byte, error) {
	resp, err := c.client.Get(c.public + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %.300s", path, resp.StatusCode, b)
	}
	return b, err
}

// deliver hands over an event as the sidecar does, again until it is taken.
func (c *cloud) deliver(ctx context.Context, event []byte) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.app+"/ingest/backlog", bytes.NewReader(event))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/cloudevents+json")
		resp, err := c.client.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// enrol makes an agent known and returns its key.
func (c *cloud) enrol(ctx context.Context, program, agent string) (ed25519.PrivateKey, error) {
	out, err := exec.CommandContext(ctx, program, "token", "create", "--config", c.config, "--agent", agent).Output()
	if err != nil {
		return nil, fmt.Errorf("token create: %w", err)
	}
	tok, err := telemetry.ParseToken(strings.TrimSpace(string(out)))
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	req, err := telemetry.NewEnrolRequest(tok, agent, key)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Post(c.public+"/v1/enrol", "application/json", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("enrol: %d", resp.StatusCode)
	}
	return key, nil
}
