package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// testCase is one thing that goes wrong while sensors publish. play returns when it is right again, with a remark for the table.
type testCase struct {
	name  string
	about string
	size  int                  // of a payload; 0: as short as they come
	rate  float64              // messages a second; 0: as the options say
	needs func(options) string // why it cannot be played; nil: it always can
	play  func(context.Context, *test) (note string, err error)
}

func (c testCase) missing(o options) string {
	if c.needs == nil {
		return ""
	}
	return c.needs(o)
}

func cases() []testCase {
	return []testCase{
		{name: "nothing", about: "undisturbed, for the figures", play: undisturbed},
		{name: "cloud-pod", about: "the cloud-api pod is deleted", play: deletePod(cloudNamespace, "cloud-api", "deployment/cloud-api")},
		{name: "broker-pod", about: "the broker's pod is deleted", play: deletePod(cloudNamespace, "nats", "statefulset/nats")},
		{name: "edge-pod", about: "the agent's pod is deleted", play: deletePod(edgeNamespace, "edge-agent", "daemonset/edge-agent")},
		{name: "edge-rollout", about: "a rolling update of the agent", play: rollout(edgeNamespace, "daemonset/edge-agent")},
		{name: "cloud-rollout", about: "a rolling update of the cloud-api", play: rollout(cloudNamespace, "deployment/cloud-api")},
		{name: "eviction", about: "the agent's pod is evicted", play: evict},
		{name: "sidecar", about: "the agent's pod starts without the sidecar's Secret, and gets it later", play: withoutSecret},
		{name: "settings", about: "an invalid setting is rolled out and taken back", play: invalidSetting},
		{name: "users", about: "the agent's pod starts without the users' Secret, and gets it later", play: withoutUsers},
		{name: "outbox-full", about: "the outbox reaches its limit while the cloud is away", size: 4 << 10, rate: 100, play: outboxFull},
		{name: "disk-full", about: "the disk of the edge node is full while the cloud is away", size: 4 << 10, rate: 100, needs: both("--fill and --free", func(o options) bool { return o.fill != "" && o.free != "" }), play: diskFull},
		{name: "cut", about: "the network between edge and cloud is cut", needs: both("--cut and --heal", func(o options) bool { return o.cut != "" && o.heal != "" }), play: cut},
		{name: "power", about: "the edge node loses power", needs: both("--kill and --start", func(o options) bool { return o.kill != "" && o.start != "" }), play: power},
	}
}

func both(flags string, given func(options) bool) func(options) string {
	return func(o options) string {
		if given(o) {
			return ""
		}
		return flags + " are not given"
	}
}

func undisturbed(ctx context.Context, t *test) (string, error) {
	pause(ctx, 20*time.Second)
	return t.workingSet(ctx)
}

func deletePod(namespace, app, owner string) func(context.Context, *test) (string, error) {
	return func(ctx context.Context, _ *test) (string, error) {
		ps, err := pods(ctx, namespace, app)
		if err != nil || len(ps) == 0 {
			return "", errors.Join(err, errors.New("no pod of "+app))
		}
		if _, err := kubectl(ctx, "-n", namespace, "delete", "pod", ps[0].name, "--wait=true"); err != nil {
			return "", err
		}
		return settled(ctx, namespace, app, owner)
	}
}

func rollout(namespace, owner string) func(context.Context, *test) (string, error) {
	return func(ctx context.Context, _ *test) (string, error) {
		if _, err := kubectl(ctx, "-n", namespace, "rollout", "restart", owner); err != nil {
			return "", err
		}
		_, app, _ := strings.Cut(owner, "/")
		return settled(ctx, namespace, app, owner)
	}
}

// settled waits for the owner's pods and tells how soon the youngest was ready.
func settled(ctx context.Context, namespace, app, owner string) (string, error) {
	if _, err := kubectl(ctx, "-n", namespace, "rollout", "status", owner, "--timeout=180s"); err != nil {
		return "", err
	}
	var youngest pod
	err := until(ctx, time.Minute, "ready pods of "+app, func() error {
		ps, err := pods(ctx, namespace, app)
		for _, p := range ps {
			if !p.ready {
				err = errors.Join(err, errors.New(p.name+" is not ready"))
			}
			if p.start.After(youngest.start) {
				youngest = p
			}
		}
		return err
	})
	return fmt.Sprintf("ready %.0f s after the node took it on", youngest.since.Sub(youngest.start).Seconds()), err
}

func evict(ctx context.Context, _ *test) (string, error) {
	p, err := theOnly(ctx, edgeNamespace, "edge-agent")
	if err != nil {
		return "", err
	}
	eviction := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, p.name, edgeNamespace)
	if _, err := command(ctx, eviction, "kubectl", "create", "--raw", "/api/v1/namespaces/"+edgeNamespace+"/pods/"+p.name+"/eviction", "-f", "-"); err != nil {
		return "", err
	}
	if _, err := kubectl(ctx, "-n", edgeNamespace, "wait", "--for=delete", "pod/"+p.name, "--timeout=60s"); err != nil {
		return "", err
	}
	return settled(ctx, edgeNamespace, "edge-agent", "daemonset/edge-agent")
}

// restartEdge replaces the agent's pod without waiting for the new one.
func restartEdge(ctx context.Context) error {
	_, err := kubectl(ctx, "-n", edgeNamespace, "delete", "pod", "-l", "app.kubernetes.io/name=edge-agent", "--wait=true")
	return err
}

// withoutSecret shows that nothing of the sidecar's is needed for an acknowledgement.
func withoutSecret(ctx context.Context, t *test) (string, error) {
	if _, err := kubectl(ctx, "-n", edgeNamespace, "delete", "secret", "holdfast-nats"); err != nil {
		return "", err
	}
	if err := restartEdge(ctx); err != nil {
		return "", err
	}
	took, err := t.acknowledges(ctx, time.Minute)
	if err != nil {
		return "", err
	}
	if err := apply(ctx, secret(edgeNamespace, "holdfast-nats", t.nats)); err != nil {
		return "", err
	}
	if err := restartEdge(ctx); err != nil {
		return "", err
	}
	_, err = settled(ctx, edgeNamespace, "edge-agent", "daemonset/edge-agent")
	return fmt.Sprintf("a PUBACK without the sidecar's Secret %.1f s after the old pod was gone", took.Seconds()), err
}

// withoutUsers shows that a missing Secret that is needed keeps the pod waiting with an event that names it.
func withoutUsers(ctx context.Context, t *test) (string, error) {
	if _, err := kubectl(ctx, "-n", edgeNamespace, "delete", "secret", "holdfast-mqtt-users"); err != nil {
		return "", err
	}
	if err := restartEdge(ctx); err != nil {
		return "", err
	}
	named := until(ctx, time.Minute, "an event names the Secret", func() error {
		out, err := kubectl(ctx, "-n", edgeNamespace, "get", "events", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, `secret "holdfast-mqtt-users" not found`) {
			err = errors.New("no such event")
		}
		return err
	})
	if err := apply(ctx, t.users); err != nil {
		return "", err
	}
	// The kubelet tries again after up to two minutes.
	return "an event named the Secret", errors.Join(named, t.edgeReady(ctx, 4*time.Minute))
}

// invalidSetting shows that the agent says what is wrong, is not ready, and goes on with what it had once the setting is right again.
func invalidSetting(ctx context.Context, t *test) (string, error) {
	set := []string{"-n", edgeNamespace, "set", "env", "daemonset/edge-agent", "-c", "edge-agent"}
	if _, err := kubectl(ctx, append(set, "EDGE_OUTBOX__FULL=explode")...); err != nil {
		return "", err
	}
	said := until(ctx, time.Minute, "the log names the setting", func() error {
		out, err := kubectl(ctx, "-n", edgeNamespace, "logs", "-l", "app.kubernetes.io/name=edge-agent", "-c", "edge-agent", "--tail=20")
		if err == nil && !strings.Contains(out, "outbox.full") {
			err = errors.New("not in the log: " + out)
		}
		return err
	})
	ready, err := theOnly(ctx, edgeNamespace, "edge-agent")
	if err == nil && ready.ready {
		err = errors.New("the pod is ready with an invalid setting")
	}
	if _, err2 := kubectl(ctx, append(set, "EDGE_OUTBOX__FULL-")...); err2 != nil {
		return "", errors.Join(said, err, err2)
	}
	_, err3 := settled(ctx, edgeNamespace, "edge-agent", "daemonset/edge-agent")
	return "the log named the setting", errors.Join(said, err, err3)
}

func cut(ctx context.Context, t *test) (note string, err error) {
	if err := shell(ctx, t.cut, t.node); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, shell(context.WithoutCancel(ctx), t.heal, t.node)) }()
	pause(ctx, t.outage/4) // for what was already on its way
	before, err := t.cloudAgent(ctx)
	if err != nil {
		return "", err
	}
	pause(ctx, t.outage-t.outage/4)
	after, err := t.cloudAgent(ctx)
	if err == nil && after.Held != before.Held {
		err = fmt.Errorf("%d records passed the cut: it proves nothing", after.Held-before.Held)
	}
	return fmt.Sprintf("cut for %s", t.outage), err
}

// outboxFull shows that a full outbox stops acknowledging, and takes up again when there is room.
func outboxFull(ctx context.Context, t *test) (string, error) {
	return t.full(ctx, []string{"EDGE_OUTBOX__MAX_BYTES=16MiB", "EDGE_OUTBOX__KEEP_BYTES=0", "EDGE_OUTBOX__RESERVE_BYTES=0"}, nil, nil)
}

// diskFull shows the same of a disk that somebody else filled. What the agent has set aside is left out, or filling that would take minutes.
func diskFull(ctx context.Context, t *test) (string, error) {
	return t.full(ctx, []string{"EDGE_OUTBOX__KEEP_BYTES=0", "EDGE_OUTBOX__RESERVE_BYTES=0"},
		func() error { return shell(ctx, t.fill, t.data) },
		func() error { return shell(context.WithoutCancel(ctx), t.free, t.data) })
}

// full plays a time without room: with settings that leave little of it, and with the cloud away, so that nothing is trimmed.
func (t *test) full(ctx context.Context, settings []string, fill, free func() error) (string, error) {
	if err := t.setEdge(ctx, settings...); err != nil {
		return "", err
	}
	err := t.scaleCloud(ctx, 0)
	if err == nil && fill != nil {
		err = fill()
	}
	if err == nil {
		err = t.stalls(ctx)
	}
	if free != nil {
		err = errors.Join(err, free())
	}
	err = errors.Join(err, t.scaleCloud(context.WithoutCancel(ctx), 1), t.resumes(ctx))
	for i, s := range settings {
		name, _, _ := strings.Cut(s, "=")
		settings[i] = name + "-" // kubectl's way to take one back
	}
	return "no PUBACK while it was full", errors.Join(err, t.setEdge(ctx, settings...))
}

// setEdge changes the agent's environment and waits for the pod that has it.
func (t *test) setEdge(ctx context.Context, settings ...string) error {
	args := append([]string{"-n", edgeNamespace, "set", "env", "daemonset/edge-agent", "-c", "edge-agent"}, settings...)
	if _, err := kubectl(ctx, args...); err != nil {
		return err
	}
	_, err := settled(ctx, edgeNamespace, "edge-agent", "daemonset/edge-agent")
	return err
}

func (t *test) scaleCloud(ctx context.Context, replicas int) error {
	_, err := kubectl(ctx, "-n", cloudNamespace, "scale", "deployment/cloud-api", fmt.Sprintf("--replicas=%d", replicas))
	return err
}

// stalls waits until no sensor has had an acknowledgement for ten seconds.
func (t *test) stalls(ctx context.Context) error {
	last, since := t.book.Totals().Acknowledged, time.Now()
	return until(ctx, 3*time.Minute, "acknowledgements stop", func() error {
		now := t.book.Totals().Acknowledged
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 10*time.Second {
			return errors.New("they go on")
		}
		return nil
	})
}

// resumes waits until sensors are answered again.
func (t *test) resumes(ctx context.Context) error {
	before := t.book.Totals().Acknowledged
	return until(ctx, 3*time.Minute, "acknowledgements come again", func() error {
		if t.book.Totals().Acknowledged == before {
			return errors.New("none")
		}
		return nil
	})
}

func power(ctx context.Context, t *test) (string, error) {
	if err := shell(ctx, t.kill, t.node); err != nil {
		return "", err
	}
	pause(ctx, 20*time.Second)
	if err := shell(context.WithoutCancel(ctx), t.start, t.node); err != nil {
		return "", err
	}
	begin := time.Now()
	took, err := t.acknowledges(ctx, 4*time.Minute)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a PUBACK %.0f s after the node's start was asked for", took.Seconds()), t.edgeReady(ctx, 4*time.Minute-time.Since(begin))
}
