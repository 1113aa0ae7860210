package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// half is one of the two deployments that are ours.
type half struct{ namespace, app, owner string }

var (
	edgeHalf  = half{edgeNamespace, "edge-agent", edgeOwner}
	cloudHalf = half{cloudNamespace, "cloud-api", "deployment/cloud-api"}
)

// deleteCloudPod deletes one pod of the cloud's half and waits until all are there again.
func deleteCloudPod(app, owner string) func(context.Context, *test) (string, error) {
	return func(ctx context.Context, _ *test) (string, error) {
		ps, err := pods(ctx, cloudNamespace, app)
		if err != nil || len(ps) == 0 {
			return "", errors.Join(err, errors.New("no pod of "+app))
		}
		if _, err := kubectl(ctx, "-n", cloudNamespace, "delete", "pod", ps[0].name, "--wait=true"); err != nil {
			return "", err
		}
		p, err := settled(ctx, half{cloudNamespace, app, owner})
		return p.start().String(), err
	}
}

func edgePod(ctx context.Context, _ *test) (string, error) {
	return inTime(func() ([]figure, error) {
		if err := edgeHalf.restart(ctx); err != nil {
			return nil, err
		}
		p, err := settled(ctx, edgeHalf)
		return []figure{p.start()}, err
	})
}

// edgeRollout is a rolling update: the intake stands still from the end of the old agent until sensors are back at the new one.
func edgeRollout(ctx context.Context, t *test) (string, error) {
	return inTime(func() ([]figure, error) {
		longest := t.standstill()
		p, err := rollout(ctx, edgeHalf)
		pause(ctx, lead) // for sensors that are still to come back
		return []figure{{"the intake stood still for", longest(), wantStop}, p.start()}, err
	})
}

func cloudRollout(ctx context.Context, _ *test) (string, error) {
	p, err := rollout(ctx, cloudHalf)
	return p.start().String(), err
}

func rollout(ctx context.Context, h half) (pod, error) {
	if _, err := kubectl(ctx, "-n", h.namespace, "rollout", "restart", h.owner); err != nil {
		return pod{}, err
	}
	return settled(ctx, h)
}

// settled waits for the pods of a half and returns the youngest.
func settled(ctx context.Context, h half) (youngest pod, err error) {
	if _, err := kubectl(ctx, "-n", h.namespace, "rollout", "status", h.owner, "--timeout=240s"); err != nil {
		return pod{}, errors.Join(err, describe(ctx, h.namespace))
	}
	err = until(ctx, time.Minute, "ready pods of "+h.app, func() (err error) {
		youngest, err = readyPods(ctx, h.namespace, h.app)
		return err
	})
	return youngest, err
}

// start is how soon the pod was ready after its containers had started, which is our part: what the node does before is not. Kubernetes tells
// whole seconds, so the difference is right to one, and one of more than three seconds was more for sure.
func (p pod) start() figure {
	return figure{"ready after its containers' start", p.since.Sub(p.started), wantReady}
}

func evict(ctx context.Context, _ *test) (string, error) {
	return inTime(func() ([]figure, error) {
		p, err := theOnly(ctx, edgeNamespace, edgeHalf.app)
		if err != nil {
			return nil, err
		}
		eviction := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, p.name, edgeNamespace)
		if _, err := command(ctx, eviction, "kubectl", "create", "--raw", "/api/v1/namespaces/"+edgeNamespace+"/pods/"+p.name+"/eviction", "-f", "-"); err != nil {
			return nil, err
		}
		if _, err := kubectl(ctx, "-n", edgeNamespace, "wait", "--for=delete", "pod/"+p.name, "--timeout=60s"); err != nil {
			return nil, err
		}
		p, err = settled(ctx, edgeHalf)
		return []figure{p.start()}, err
	})
}

// endSidecar shows that the agent beside it goes on: its container is not started again.
func endSidecar(ctx context.Context, _ *test) (string, error) {
	before, err := theOnly(ctx, edgeNamespace, "edge-agent")
	if err != nil {
		return "", err
	}
	err = forward(ctx, edgeNamespace, "pod/"+before.name, "3500", func(ctx context.Context, address string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v1.0/shutdown", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= http.StatusBadRequest {
			return errors.New("the sidecar does not end: " + resp.Status)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	var after pod
	err = until(ctx, 2*time.Minute, "the sidecar runs again", func() (err error) {
		after, err = theOnly(ctx, edgeNamespace, "edge-agent")
		if err == nil && (after.restarts["daprd"] == before.restarts["daprd"] || !after.ready) {
			err = errors.New("not yet")
		}
		return err
	})
	if err == nil && (after.name != before.name || after.restarts["edge-agent"] != before.restarts["edge-agent"]) {
		err = errors.New("the agent was started again with it")
	}
	return "the agent went on", err
}

// restart replaces the pods of a half without waiting for the new ones.
func (h half) restart(ctx context.Context) error {
	_, err := kubectl(ctx, "-n", h.namespace, "delete", "pod", "-l", "app.kubernetes.io/name="+h.app, "--wait=true")
	return err
}

// scaleDown takes every pod of an owner away. The function that it returns brings as many back.
func scaleDown(ctx context.Context, owner string) (back func() error, err error) {
	text, err := kubectl(ctx, "-n", cloudNamespace, "get", owner, "-o", "jsonpath={.spec.replicas}")
	if err != nil {
		return func() error { return nil }, err
	}
	replicas, err := strconv.Atoi(text)
	if err != nil {
		return func() error { return nil }, fmt.Errorf("replicas of %s: %w", owner, err)
	}
	scale := func(ctx context.Context, n int) error {
		_, err := kubectl(ctx, "-n", cloudNamespace, "scale", owner, fmt.Sprintf("--replicas=%d", n))
		return err
	}
	_, app, _ := strings.Cut(owner, "/")
	back = func() error { return scale(context.WithoutCancel(ctx), replicas) }
	if err := scale(ctx, 0); err != nil {
		return back, err
	}
	return back, until(ctx, 2*time.Minute, "no pod of "+app, func() error {
		ps, err := pods(ctx, cloudNamespace, app)
		if err == nil && len(ps) > 0 {
			err = fmt.Errorf("%d left", len(ps))
		}
		return err
	})
}

// alone shows that a pod comes up with nothing behind it.
func alone(ctx context.Context, t *test) (note string, err error) {
	for _, owner := range []string{"deployment/cloud-api", "statefulset/nats"} {
		back, err2 := scaleDown(ctx, owner)
		defer func() { err = errors.Join(err, back()) }()
		if err2 != nil {
			return "", err2
		}
	}
	return inTime(func() ([]figure, error) {
		if err := edgeHalf.restart(ctx); err != nil {
			return nil, err
		}
		took, err := t.acknowledges(ctx, time.Minute)
		if err != nil {
			return nil, err
		}
		p, err := settled(ctx, edgeHalf)
		return []figure{{"a PUBACK after the old pod was gone", took, time.Minute}, p.start()}, err
	})
}
