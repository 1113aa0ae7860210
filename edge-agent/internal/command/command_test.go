package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/command"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/freeport"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/status"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// asAgent makes the test binary run as edge-agent, so that a test can kill it.
const asAgent = "COMMAND_TEST_AS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		os.Exit(command.Run(context.Background(), &command.Env{
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(), Version: "test",
		}, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// call runs one command in this process.
func call(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command.Run(context.Background(), &command.Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Environ: []string{"EDGE_AGENT=pi-1"}, Version: "1.2.3",
	}, args)
	return code, out.String(), errs.String()
}

func settings(t *testing.T, lines ...string) (path, data string) {
	t.Helper()
	dir := t.TempDir()
	path, data = filepath.Join(dir, "edge-agent.yaml"), filepath.Join(dir, "data")
	text := "agent: pi-1\ndata: " + data + "\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

// Help is given where it is asked for, with 0; wrong usage gets 2 and a hint.
func TestUsage(t *testing.T) {
	f := func(code int, stdout, stderr string, args ...string) {
		t.Helper()
		gotCode, out, errs := call("", args...)
		if gotCode != code || !strings.Contains(out, stdout) || !strings.Contains(errs, stderr) || (stdout == "") != (out == "") || (stderr == "") != (errs == "") {
			t.Errorf("%v: got %d, %q, %q", args, gotCode, out, errs)
		}
	}
	f(0, "edge-agent enroll --config", "", "--help")
	f(0, "Exit codes", "", "help")
	f(0, "1.2.3", "", "version")
	f(0, "without it, enrol.url", "", "enroll", "--help")
	f(0, "first line of standard input", "", "user", "--help")
	f(0, "-config FILE", "", "run", "-h")
	f(2, "", "Exit codes")
	f(2, "", `no command "rum"`, "rum")
	f(2, "", "not defined: -confg", "run", "--confg", "x")
	f(2, "", "takes 0 arguments", "check", "extra")
	f(2, "", "no such file", "run", "--config", "/nowhere.yaml")
	f(2, "", "user add", "user", "delete")
	f(2, "", "--file", "user", "add", "anna")
	f(2, "", "--token-file", "enroll", "--url", "http://x")
	f(2, "", "enrolment token", "enroll", "--url", "http://x", "--token", "x")
	f(2, "", "not both", "enroll", "--token", "x", "--token-file", "y")
}

// check takes good settings and names what is wrong with others, also in files
// that they name; it makes nothing.
func TestCheck(t *testing.T) {
	path, data := settings(t)
	if code, out, errs := call("", "check", "--config", path); code != 0 || !strings.Contains(out, "pi-1") {
		t.Errorf("got %d %q %q", code, out, errs)
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("check made the data folder")
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, _ = settings(t, "intake: {mqtt: {listen: '0.0.0.0:1883', users_file: "+users+"}}")
	if code, _, errs := call("", "check", "--config", path); code != 2 || !strings.Contains(errs, "users_file") {
		t.Errorf("got %d %q", code, errs)
	}
	path, _ = settings(t, "outbx: {}", "outbox: {full: maybe}")
	if code, _, errs := call("", "check", "--config", path); code != 2 || !strings.Contains(errs, "outbox.full") {
		t.Errorf("got %d %q", code, errs)
	}
}

// status prints a table or JSON, and its exit code says whether readings are taken.
func TestStatus(t *testing.T) {
	report := status.Report{Agent: "pi-1", Version: "9", Epoch: "1-00", Uptime: 200000, Parts: []status.Part{{
		Name: "outbox", State: status.OK, Facts: []status.Fact{
			{Label: "Bytes", Value: 3 << 20, Unit: status.Bytes},
			{Label: "Records", Value: 1234567, Unit: status.Count},
			{Label: "Age", Value: 1.5, Unit: status.Seconds},
			{Label: "Full", Value: -1, Unit: status.Seconds},
			{Label: "Subscribed", Value: true, Unit: status.Yes},
			{Label: "Cloud", Value: "", Unit: status.Text},
		},
	}}}
	report.Settle()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(report) }))
	defer server.Close()
	address := server.Listener.Addr().String()
	code, out, errs := call("", "status", "--address", address)
	if code != 0 || errs != "" {
		t.Errorf("got %d %q", code, errs)
	}
	for _, want := range []string{"pi-1", "ready", "2d7h", "3 MiB", "1 234 567", "1.5s", "unknown", "yes", "-"} {
		if !strings.Contains(out, want) {
			t.Errorf("the table lacks %s:\n%s", want, out)
		}
	}
	report.Parts[0].State = status.Failing
	report.Settle()
	code, out, errs = call("", "status", "--address", address, "--json")
	if code != 1 || errs != "" || !json.Valid([]byte(out)) {
		t.Errorf("got %d %q %q", code, out, errs)
	}
	server.Close()
	if code, _, errs := call("", "status", "--address", address); code != 1 || !strings.Contains(errs, "is it running?") {
		t.Errorf("got %d %q", code, errs)
	}
}

// user add writes a file that check takes, without the password in it.
func TestUserAdd(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	if code, out, errs := call("wonderland\n", "user", "add", "--file", users, "anna"); code != 0 || !strings.Contains(out, "anna may connect") {
		t.Fatalf("got %d %q %q", code, out, errs)
	}
	path, _ := settings(t, "intake: {mqtt: {listen: '0.0.0.0:1883', users_file: "+users+"}}")
	if code, _, errs := call("", "check", "--config", path); code != 0 {
		t.Errorf("got %d %q", code, errs)
	}
	if text, err := os.ReadFile(users); err != nil || strings.Contains(string(text), "wonderland") {
		t.Errorf("got %s, %v", text, err)
	}
	if code, _, _ := call("\n", "user", "add", "--file", users, "ben"); code != 1 {
		t.Errorf("an empty password: got %d", code)
	}
}

// An agent without a network enrols by two files; the token's secret is in neither.
func TestEnrollOffline(t *testing.T) {
	pub, root := newKey(t)
	token := telemetry.NewToken(pub)
	path, data := settings(t)
	dir := t.TempDir()
	tokenFile, request, response := filepath.Join(dir, "token"), filepath.Join(dir, "request.json"), filepath.Join(dir, "response.json")
	if err := os.WriteFile(tokenFile, []byte(token.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := call("", "enroll", "--config", path, "--token-file", tokenFile, "--request-file", request); code != 0 {
		t.Fatalf("got %d %q", code, errs)
	}
	text, err := os.ReadFile(request)
	if err != nil || strings.Contains(string(text), token.Secret) {
		t.Fatalf("got %s, %v", text, err)
	}
	req, err := telemetry.ParseEnrolRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := telemetry.NewEnrolResponse("cloud-1", req, root)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := json.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(response, answer, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"enroll", "--config", path, "--token-file", tokenFile, "--response-file", response}
	if code, _, errs := call("", args...); code != 2 || !strings.Contains(errs, "--request-file") {
		t.Errorf("without the request: got %d %q", code, errs)
	}
	code, out, errs := call("", append(args, "--request-file", request)...)
	if code != 0 || !strings.Contains(out, telemetry.Fingerprint(pub)) {
		t.Fatalf("got %d %q %q", code, out, errs)
	}
	if _, err := os.Stat(filepath.Join(data, "enrolment.json")); err != nil {
		t.Error(err)
	}
}

// process is an edge-agent that can be killed.
type process struct {
	*exec.Cmd
	mqtt, status string
}

func launch(t testing.TB, config, mqtt, status string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "run", "--config", config)
	cmd.Env = append(os.Environ(), asAgent+"=1", "EDGE_INTAKE__MQTT__LISTEN="+mqtt, "EDGE_STATUS__LISTEN="+status,
		"EDGE_UPLINK__DAPR_ADDRESS=127.0.0.1:1", "EDGE_OUTBOX__RESERVE_BYTES=0")
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get("http://" + status + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return &process{cmd, mqtt, status}
			}
		}
		if time.Now().After(end) {
			t.Fatal("the agent is not ready after 20 s")
		}
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// flood publishes until the connection is gone, and notes what was acknowledged.
func flood(t *testing.T, p *process, round int, acked *sync.Map) (count func() int) {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + p.mqtt).SetClientID("sensor").SetAutoReconnect(false))
	if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal("connect: ", token.Error())
	}
	var mu sync.Mutex
	n := 0
	slots := make(chan struct{}, 200)
	go func() {
		for i := 0; c.IsConnected(); i++ {
			slots <- struct{}{}
			payload := fmt.Sprintf("%d-%d", round, i)
			token := c.Publish("a", 1, false, payload)
			go func() {
				if token.WaitTimeout(5*time.Second) && token.Error() == nil && c.IsConnected() {
					acked.Store(payload, true)
					mu.Lock()
					n++
					mu.Unlock()
				}
				<-slots
			}()
		}
	}()
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// Killed again and again in the middle of a flood, the agent has stored every
// reading that it ever acknowledged.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	config, data := settings(t)
	mqtt, status := freeAddress(t), freeAddress(t)
	var acked sync.Map
	for round := range 5 {
		p := launch(t, config, mqtt, status)
		count := flood(t, p, round, &acked)
		for end := time.Now().Add(20 * time.Second); count() < 300+100*round; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d acknowledged after 20 s", count())
			}
		}
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.Wait()
	}
	total, missing := 0, 0
	got := stored(t, filepath.Join(data, "outbox"))
	acked.Range(func(payload, _ any) bool {
		total++
		if !got[payload.(string)] {
			missing++
		}
		return true
	})
	if missing > 0 || total < 2500 {
		t.Errorf("%d of %d acknowledged readings are not stored", missing, total)
	}
}

// The outbox of an agent that stopped can be looked into; that of one that runs
// cannot, and the error says what to do.
func TestOutbox(t *testing.T) {
	config, data := settings(t)
	p := launch(t, config, freeAddress(t), freeAddress(t))
	var acked sync.Map
	count := flood(t, p, 0, &acked)
	for end := time.Now().Add(20 * time.Second); count() < 10 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if code, _, errs := call("", "outbox", "stats", "--config", config); code != 1 || !strings.Contains(errs, "stop the agent first") {
		t.Errorf("while it runs: got %d %q", code, errs)
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	f := func(verb, want string) {
		t.Helper()
		code, out, errs := call("", "outbox", verb, "--dir", filepath.Join(data, "outbox"))
		if code != 0 || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: got %d %q %.200q", verb, code, errs, out)
		}
	}
	f("stats", "segments")
	f("verify", "records")
	f("export", `"payload":"0-5"`)
	if code, _, errs := call("", "outbox", "delete"); code != 2 || !strings.Contains(errs, "stats, verify or export") {
		t.Errorf("got %d %q", code, errs)
	}
}

func stored(t *testing.T, dir string) map[string]bool {
	t.Helper()
	o, err := outbox.Open(outbox.Options{Dir: dir, Agent: "pi-1", ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	all := make(map[string]bool)
	for _, e := range o.Epochs() {
		for from := uint64(1); ; {
			recs, err := o.Read(t.Context(), e.Epoch, from, 1000, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if len(recs) == 0 {
				break
			}
			for _, rec := range recs {
				if rec.Reading != nil {
					all[string(rec.Reading.Payload)] = true
				}
			}
			from = recs[len(recs)-1].Seq + 1
		}
	}
	return all
}

// SIGTERM ends the agent with exit code 0.
func TestTermEndsTheAgent(t *testing.T) {
	config, _ := settings(t)
	p := launch(t, config, freeAddress(t), freeAddress(t))
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("got %v", err)
	}
}
