package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/mqtt"
)

// What is wanted.
const (
	figureRate     = 1000            // readings a second
	wantWorkingSet = 128 << 20       // bytes, of the agent and its sidecar together at that rate
	wantStop       = 5 * time.Second // at most, of the intake, during a rolling update of the agent
	wantReady      = 3 * time.Second // at most, from the start of the agent's containers until the pod is ready
)

// attempts is how often a time may be tried. A machine that is busy with something else can make a start late; nothing makes one early. What
// is late each time is ours.
const attempts = 3

// figure is a time that was measured and the most that it may be.
type figure struct {
	what       string
	took, most time.Duration
}

func (f figure) late() bool { return f.took > f.most }

func (f figure) String() string { return fmt.Sprintf("%s %.1f s", f.what, f.took.Seconds()) }

// inTime plays something that has figures until all of them are right, and fails when they never are. The note tells what every attempt took.
func inTime(play func() ([]figure, error)) (string, error) {
	var notes, late []string
	for range attempts {
		figures, err := play()
		if err != nil {
			return strings.Join(notes, "; again: "), err
		}
		var all []string
		late = nil
		for _, f := range figures {
			all = append(all, f.String())
			if f.late() {
				late = append(late, fmt.Sprintf("%s, at most %.0f s are wanted", f, f.most.Seconds()))
			}
		}
		notes = append(notes, strings.Join(all, ", "))
		if len(late) == 0 {
			return strings.Join(notes, "; again: "), nil
		}
	}
	return strings.Join(notes, "; again: "), fmt.Errorf("%d times late: %s", attempts, strings.Join(late, ", "))
}

// standstill measures the longest time without an acknowledgement for any sensor, until its result is called.
func (t *test) standstill() (longest func() time.Duration) {
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		last, since, worst := t.book.Totals().Acknowledged, time.Now(), time.Duration(0)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				result <- worst
				return
			case <-tick.C:
			}
			worst = max(worst, time.Since(since))
			if now := t.book.Totals().Acknowledged; now != last {
				last, since = now, time.Now()
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-result
	}
}

// acknowledges publishes one message of its own and tells how long it took until its PUBACK.
func (t *test) acknowledges(ctx context.Context, limit time.Duration) (time.Duration, error) {
	return t.acknowledgesTo(ctx, mqttUser, t.password, limit)
}

// acknowledgesTo does so as somebody else than the sensors' user.
func (t *test) acknowledgesTo(ctx context.Context, user, password string, limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin, sent := time.Now(), false
	p := mqtt.New(mqtt.Options{
		Addr: t.relay.address(), ClientID: fmt.Sprintf("probe-%d", rand.Uint32()), Username: user, Password: password,
		Next: func() (mqtt.Message, bool) {
			defer func() { sent = true }()
			return mqtt.Message{Topic: "probe", Payload: []byte("?")}, !sent
		},
		Sent:  func(mqtt.Message, bool) {},
		Acked: func(mqtt.Message, time.Time) {},
	})
	if err := p.Run(ctx); err != nil {
		return 0, fmt.Errorf("no PUBACK within %s: %w", limit, err)
	}
	return time.Since(begin), nil
}

// workingSet asks the edge node's kubelet what the agent's containers use, and does not take more than is wanted.
func (t *test) workingSet(ctx context.Context) (string, error) {
	out, err := kubectl(ctx, "get", "--raw", "/api/v1/nodes/"+t.node+"/proxy/stats/summary")
	if err != nil {
		return "", err
	}
	return judgeWorkingSet([]byte(out))
}

// judgeWorkingSet reads a kubelet's /stats/summary.
func judgeWorkingSet(stats []byte) (string, error) {
	var summary struct {
		Pods []struct {
			Ref        struct{ Name, Namespace string } `json:"podRef"`
			Containers []struct {
				Name   string
				Memory struct {
					WorkingSet uint64 `json:"workingSetBytes"`
				}
			}
		}
	}
	if err := json.Unmarshal(stats, &summary); err != nil {
		return "", fmt.Errorf("read the kubelet's statistics: %w", err)
	}
	for _, p := range summary.Pods {
		if p.Ref.Namespace != edgeNamespace || !strings.HasPrefix(p.Ref.Name, edgeHalf.app+"-") {
			continue
		}
		note, sum := "working set", uint64(0)
		for _, c := range p.Containers {
			note += fmt.Sprintf(" %s %d MiB", c.Name, c.Memory.WorkingSet>>20)
			sum += c.Memory.WorkingSet
		}
		if sum == 0 || sum > wantWorkingSet {
			return note, fmt.Errorf("a working set of %d MiB, want more than none and at most %d", sum>>20, wantWorkingSet>>20)
		}
		return note, nil
	}
	return "", errors.New("the kubelet knows no pod of the agent")
}
