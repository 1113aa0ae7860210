package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
)

// A command line that would test less than it seems to is refused.
func TestOptions(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		_, err := parse(args, io.Discard)
		if got := ""; err != nil {
			got = err.Error()
			if want == "" || !strings.Contains(got, want) {
				t.Errorf("%v: %s, want %q", args, got, want)
			}
		} else if want != "" {
			t.Errorf("%v: no error, want %q", args, want)
		}
	}
	f("")
	f("", "-only", "cut,power", "-outage", "10s")
	f("no case is called", "-only", "cuts")
	f("needs --load", "-archive", "x.tar")
	f("above 0", "-rate", "0")
	f("unexpected argument", "now")
}

// A case that the cluster cannot play is skipped with a reason, never passed.
func TestSkippedIsNotPassed(t *testing.T) {
	for _, c := range cases() {
		if c.name != "cut" {
			continue
		}
		if why := c.missing(&test{options: options{cut: "x"}}); !strings.Contains(why, "--heal") {
			t.Errorf("got %q, want the missing option", why)
		}
		if why := c.missing(&test{options: options{cut: "x", heal: "y"}}); why != "" {
			t.Errorf("skipped although it could be played: %s", why)
		}
	}
	r := result{name: "cut", skipped: "for a reason", verdict: oracle.Verdict{Passed: true}}
	if r.passed() || !strings.Contains(r.line(), "for a reason") {
		t.Errorf("passed %v: %s", r.passed(), r.line())
	}
	if failed := (result{verdict: oracle.Verdict{Passed: true}, err: errors.New("x")}); failed.passed() {
		t.Error("a case with an error passed")
	}
}

// The relay reaches the agent wherever it is now, and ends a session whose agent is gone.
func TestRelayFollowsTheAgent(t *testing.T) {
	where := make(chan string, 1)
	r, err := newRelay(func(context.Context) ([]string, error) {
		a := <-where
		where <- a
		return []string{"127.0.0.1:1", a}, nil // nobody listens at the first
	})
	if err != nil {
		t.Fatal(err)
	}
	go r.run(t.Context())
	for _, greeting := range []string{"first", "second"} {
		agent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		where <- agent.Addr().String()
		go func() {
			conn, err := agent.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, greeting)
			_, _ = conn.Close(), agent.Close()
		}()
		conn, err := net.Dial("tcp", r.address())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != greeting {
			t.Errorf("got %q, %v, want %q and the end", got, err, greeting)
		}
		<-where
	}
}

// The brokers' certificate is good for clients of the Service and for the brokers among themselves.
func TestCertificates(t *testing.T) {
	files, err := certificates("nats.example", "*.pods.example")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(files["ca.crt"])) {
		t.Fatal("no authority")
	}
	block, _ := pem.Decode([]byte(files["tls.crt"]))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"nats.example", "nats-0.pods.example"} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := cert.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	}
}

// A database outside is reached by a name inside; one that has a name keeps it.
func TestDatabaseService(t *testing.T) {
	inside, objects, err := databaseService("postgres://u:p@192.0.2.7:15432/d?sslmode=disable")
	if err != nil || inside != "postgres://u:p@postgres.holdfast.svc:5432/d?sslmode=disable" || len(objects) != 2 {
		t.Errorf("got %q, %d objects, %v", inside, len(objects), err)
	}
	if inside, objects, err = databaseService("postgres://u:p@db.example/d"); err != nil || inside != "postgres://u:p@db.example/d" || len(objects) != 0 {
		t.Errorf("got %q, %d objects, %v", inside, len(objects), err)
	}
	if _, _, err := databaseService("host=db"); err == nil {
		t.Error("a DSN that is no URL is taken")
	}
}

// A time that was late once is tried again and told; one that is late every time fails, and so does an error at once.
func TestLateIsTriedAgain(t *testing.T) {
	f := func(want string, wantErr bool, times ...time.Duration) {
		t.Helper()
		n := 0
		note, err := inTime(func() ([]figure, error) {
			n++
			if times[n-1] < 0 {
				return nil, errors.New("broken")
			}
			return []figure{{"ready", times[n-1], wantReady}}, nil
		})
		if note != want || (err != nil) != wantErr || n != len(times) {
			t.Errorf("%v: got %q, %v after %d attempts, want %q", times, note, err, n, want)
		}
	}
	f("ready 3.0 s", false, 3*time.Second)
	f("ready 4.0 s; again: ready 2.0 s", false, 4*time.Second, 2*time.Second)
	f("ready 4.0 s; again: ready 5.0 s; again: ready 4.0 s", true, 4*time.Second, 5*time.Second, 4*time.Second)
	f("", true, -1)
}

// The intake's standstill is the longest time without an acknowledgement, that before the first one and after the last one included.
func TestStandstill(t *testing.T) {
	x := &test{book: oracle.New(sensors.Shape{}, 1)}
	longest := x.standstill()
	for n := range uint64(10) {
		x.book.Published(0, n, false)
		x.book.Acknowledged(0, n, time.Millisecond)
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	if got := longest(); got < 250*time.Millisecond {
		t.Errorf("got %s, want 300 ms", got)
	}
}

// The containers of the agent's pod count together, other pods do not; too much, or nothing at all, fails.
func TestWorkingSet(t *testing.T) {
	f := func(agent, sidecar int, wantErr bool) {
		t.Helper()
		stats := fmt.Sprintf(`{"pods": [
			{"podRef": {"name": "nats-0", "namespace": "holdfast"}, "containers": [{"name": "nats", "memory": {"workingSetBytes": 999999999}}]},
			{"podRef": {"name": "mosquitto-x", "namespace": "holdfast-edge"}, "containers": [{"name": "mosquitto", "memory": {"workingSetBytes": 999999999}}]},
			{"podRef": {"name": "edge-agent-x", "namespace": "holdfast-edge"}, "containers": [
				{"name": "edge-agent", "memory": {"workingSetBytes": %d}}, {"name": "daprd", "memory": {"workingSetBytes": %d}}]}]}`, agent<<20, sidecar<<20)
		if note, err := judgeWorkingSet([]byte(stats)); (err != nil) != wantErr {
			t.Errorf("%d and %d MiB: %s, %v", agent, sidecar, note, err)
		}
	}
	f(20, 35, false)
	f(64, 64, false)
	f(64, 65, true)
	f(0, 0, true)
	if _, err := judgeWorkingSet([]byte(`{}`)); err == nil {
		t.Error("no pod of the agent, and no error")
	}
}

// What the broker answers to a login is passed on: its error, or nothing.
func TestBrokersAnswer(t *testing.T) {
	f := func(answer, want string) {
		t.Helper()
		broker, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer broker.Close()
		go func() {
			conn, err := broker.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "INFO {}\r\n")
			for r := bufio.NewReader(conn); ; {
				line, err := r.ReadString('\n')
				if err != nil || line == "PING\r\n" {
					break
				}
			}
			_, _ = io.WriteString(conn, answer)
		}()
		got, err := login{user: "u", password: "p"}.say(t.Context(), broker.Addr().String(), "SUB x 1")
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q: got %q, want %q", answer, got, want)
		}
	}
	f("PONG\r\n", "")
	f("-ERR 'Permissions Violation for Subscription to \"x\"'\r\n", "Permissions Violation")
	f("", hungUp)
}
