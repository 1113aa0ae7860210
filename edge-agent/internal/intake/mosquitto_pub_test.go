package intake_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// Mosquitto's own client gets its acknowledgements in every version of MQTT and
// at every QoS, also with RETAIN and for an empty message.
func TestMosquittoPub(t *testing.T) {
	path, err := exec.LookPath("mosquitto_pub")
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "mosquitto") {
			t.Fatal("mosquitto is required and mosquitto_pub is not installed")
		}
		t.Skip("SKIP: mosquitto_pub is not installed")
	}
	s := &store{}
	server := serve(t, s, nil)
	host, port, _ := net.SplitHostPort(server.Addr().String())
	f := func(want string, args ...string) {
		t.Helper()
		before := len(s.readings())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, append([]string{"-h", host, "-p", port, "-t", "a/b"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
			return
		}
		got := s.wait(t, before+1)
		if last := got[len(got)-1]; string(last.Payload) != want || last.Topic != "a/b" {
			t.Errorf("%v: got %q on %q", args, last.Payload, last.Topic)
		}
	}
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		for _, qos := range []string{"0", "1", "2"} {
			f("hello", "-V", version, "-i", "pub", "-q", qos, "-m", "hello")
		}
		f("", "-V", version, "-i", "pub", "-q", "1", "-r", "-n")
		f("kept", "-V", version, "-i", "pub", "-q", "1", "-r", "-m", "kept")
	}
}
