package main

import (
	"context"
	"time"
)

// testCase is one thing that goes wrong while sensors publish. play returns when it is right again, with a remark for the table.
type testCase struct {
	name  string
	about string
	rate  float64            // messages a second; 0: as the options say
	needs func(*test) string // why it cannot be played; nil: it always can
	play  func(context.Context, *test) (note string, err error)
}

func (c testCase) missing(t *test) string {
	if c.needs == nil {
		return ""
	}
	return c.needs(t)
}

func cases() []testCase {
	return []testCase{
		{name: "nothing", about: "undisturbed, at the rate that the figures are for", rate: figureRate, play: undisturbed},
		{name: "cloud-pod", about: "the cloud-api pod is deleted", play: deleteCloudPod("cloud-api", "deployment/cloud-api")},
		{name: "broker-pod", about: "the broker's pod is deleted", play: deleteCloudPod("nats", "statefulset/nats")},
		{name: "edge-pod", about: "the agent's pod is deleted", play: edgePod},
		{name: "sidecar", about: "the agent's sidecar ends, alone", play: endSidecar},
		{name: "edge-rollout", about: "a rolling update of the agent", play: edgeRollout},
		{name: "cloud-rollout", about: "a rolling update of the cloud-api", play: cloudRollout},
		{name: "eviction", about: "the agent's pod is evicted", play: evict},
		{name: "alone", about: "the agent's pod starts with no broker and no cloud-api", play: alone},
		{name: "secret", about: "the agent's pod starts without the sidecar's Secret, and gets it later", play: withoutSecret},
		{name: "users", about: "the agent's pod starts without the users' Secret, and gets it later", needs: ownListener, play: withoutUsers},
		{name: "new-user", about: "a user is added to the users' Secret while the agent runs", needs: ownListener, play: newUser},
		{name: "config", about: "an invalid ConfigMap is rolled out and taken back", play: invalidConfig},
		{name: "read-only", about: "the agent's folder becomes read-only, and writable again", play: readOnly},
		{name: "processor", about: "an image for another processor is rolled out and taken back", needs: given("--foreign", func(o options) bool { return o.foreign != "" }), play: foreignImage},
		{name: "access", about: "the cloud-api's pod starts without its Secret, and gets it later", play: withoutAccess},
		{name: "cloud-config", about: "an invalid ConfigMap of the cloud-api is rolled out and taken back", play: invalidCloudConfig},
		{name: "label", about: "the node loses its label, and gets it again", play: unlabelled},
		{name: "outbox-full", about: "the outbox reaches its limit while the cloud is away", play: outboxFull},
		{name: "disk-full", about: "the disk of the edge node is full while the cloud is away", needs: given("--fill and --free", func(o options) bool { return o.fill != "" && o.free != "" }), play: diskFull},
		{name: "cut", about: "the network between edge and cloud is cut", needs: given("--cut and --heal", func(o options) bool { return o.cut != "" && o.heal != "" }), play: cut},
		{name: "power", about: "the edge node loses power", needs: given("--kill and --start", func(o options) bool { return o.kill != "" && o.start != "" }), play: power},
		{name: "login", about: "the edge's login to the broker is tried on what it is not for", needs: withAccounts, play: edgeLogin},
		{name: "autoscale", about: "readers keep the cloud-api busy, and leave it again", rate: 20, needs: scalable, play: autoscale},
	}
}

func given(flags string, is func(options) bool) func(*test) string {
	return func(t *test) string {
		if is(t.options) {
			return ""
		}
		return flags + ": not given"
	}
}

// ownListener tells that sensors do not talk to the agent itself.
func ownListener(t *test) string {
	if t.mosquitto {
		return "Mosquitto has the users"
	}
	return ""
}

func undisturbed(ctx context.Context, t *test) (string, error) {
	pause(ctx, 20*time.Second)
	return t.workingSet(ctx)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
