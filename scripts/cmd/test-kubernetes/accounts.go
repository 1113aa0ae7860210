package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// withAccounts tells why nobody has to log in to the broker.
func withAccounts(t *test) string {
	if t.dsn == "" {
		return "--production: not given"
	}
	return ""
}

// edgeLogin shows that the broker lets an edge do what its way needs and nothing else: no receipt for another or of its own making, no look
// into or deletion of streams; and that it lets nobody in without the password or without TLS.
func edgeLogin(ctx context.Context, t *test) (string, error) {
	wrong := login{t.nats["HOLDFAST_NATS_USER"], "wrong", t.nats["HOLDFAST_NATS_CA"]}
	own := wrong
	own.password = t.nats["HOLDFAST_NATS_PASSWORD"]
	plain := own
	plain.authority = ""
	const violation = "Permissions Violation"
	tries := []struct {
		as   login
		line string
		want string // part of the answer; empty: no error
	}{
		{own, "SUB _INBOX_" + t.agent + ".x 1", ""},
		{own, "SUB _INBOX.x 1", violation},
		{own, "SUB down." + t.agent + " 1", violation},
		{own, "SUB up.live 1", violation},
		{own, "PUB down." + t.agent + " 1\r\nx", violation},
		{own, "PUB $JS.API.STREAM.DELETE.holdfast-up 0\r\n", violation},
		{own, "PUB $JS.API.STREAM.NAMES 0\r\n", violation},
		{wrong, "SUB _INBOX_" + t.agent + ".x 1", "Authorization Violation"},
		{plain, "SUB _INBOX_" + t.agent + ".x 1", hungUp}, // last: it ends the forwarding too
	}
	var all []error
	err := forward(ctx, cloudNamespace, "service/nats", "4222", func(ctx context.Context, address string) error {
		for _, try := range tries {
			got, err := try.as.say(ctx, address, try.line)
			if err != nil || (try.want == "") != (got == "") || !strings.Contains(got, try.want) {
				all = append(all, fmt.Errorf("%q as %s: the broker says %q, want %q", try.line, try.as.user, got, try.want), err)
			}
		}
		return nil
	})
	return fmt.Sprintf("%d things tried, one of them allowed", len(tries)), errors.Join(err, errors.Join(all...))
}

// login is how somebody presents himself to the broker. No authority: without TLS.
type login struct{ user, password, authority string }

// hungUp stands for an answer where there is none: a broker that waits for TLS does not talk to those who begin without.
const hungUp = "(hung up without a word)"

// say logs in, sends one line of NATS' protocol, and returns the error that the server answers with, if any.
func (l login) say(ctx context.Context, address, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r := bufio.NewReaderSize(conn, 64<<10)
	if _, err := r.ReadString('\n'); err != nil { // INFO comes before TLS
		return "", fmt.Errorf("read the broker's greeting: %w", err)
	}
	if l.authority != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(l.authority)) {
			return "", errors.New("no certificate in the authority's file")
		}
		conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: natsHost, MinVersion: tls.VersionTLS12})
		r = bufio.NewReaderSize(conn, 64<<10)
	}
	hello, err := json.Marshal(object{"user": l.user, "pass": l.password, "verbose": false, "protocol": 1, "lang": "test", "version": "1"})
	if err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s\r\n%s\r\nPING\r\n", hello, line); err != nil {
		return "", fmt.Errorf("write to the broker: %w", err)
	}
	for {
		answer, err := r.ReadString('\n')
		switch {
		case strings.HasPrefix(answer, "-ERR"):
			return strings.TrimSpace(answer), nil
		case strings.HasPrefix(answer, "PONG"):
			return "", nil
		case err != nil && ctx.Err() == nil:
			return hungUp, nil
		case err != nil:
			return "", fmt.Errorf("read the broker's answer: %w", err)
		}
	}
}
