package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/mqtt"
)

// What is wanted. The times hold for a machine that is not busy with something else, so a longer one is said and is no failure.
const (
	figureRate     = 1000            // readings a second
	wantWorkingSet = 128 << 20       // bytes, of the agent and its sidecar together at that rate
	wantStop       = 5 * time.Second // of the intake, during a rolling update of the agent
)

// acknowledges publishes one message of its own and tells how long it took until its PUBACK.
func (t *test) acknowledges(ctx context.Context, limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin, sent := time.Now(), false
	p := mqtt.New(mqtt.Options{
		Addr: t.relay.address(), ClientID: fmt.Sprintf("probe-%d", rand.Uint32()), Username: mqttUser, Password: t.password,
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
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		return "", err
	}
	for _, p := range summary.Pods {
		if p.Ref.Namespace != edgeNamespace {
			continue
		}
		note, sum := "working set", uint64(0)
		for _, c := range p.Containers {
			note += fmt.Sprintf(" %s %d MiB", c.Name, c.Memory.WorkingSet>>20)
			sum += c.Memory.WorkingSet
		}
		if sum > wantWorkingSet {
			return note, fmt.Errorf("more than %d MiB", wantWorkingSet>>20)
		}
		return note, nil
	}
	return "", errors.New("the kubelet knows no pod of the agent")
}
