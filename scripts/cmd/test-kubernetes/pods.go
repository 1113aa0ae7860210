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

func deletePod(namespace, app, owner string) func(context.Context, *test) (string, error) {
	return func(ctx context.Context, _ *test) (string, error) {
		ps, err := pods(ctx, namespace, app)
		if err != nil || len(ps) == 0 {
			return "", errors.Join(err, errors.New("no pod of "+app))
		}
		if _, err := kubectl(ctx, "-n", namespace, "delete", "pod", ps[0].name, "--wait=true"); err != nil {
			return "", err
		}
		return settled(ctx, namespace, owner)
	}
}

func edgeRollout(ctx context.Context, t *test) (string, error) {
	note, err := rollout(ctx, edgeNamespace, edgeOwner)
	if worst := t.book.Latency().Max(); worst > wantStop {
		note += fmt.Sprintf("; the intake stood still for %.1f s, %s are wanted", worst.Seconds(), wantStop)
	}
	return note, err
}

func cloudRollout(ctx context.Context, _ *test) (string, error) {
	return rollout(ctx, cloudNamespace, "deployment/cloud-api")
}

func rollout(ctx context.Context, namespace, owner string) (string, error) {
	if _, err := kubectl(ctx, "-n", namespace, "rollout", "restart", owner); err != nil {
		return "", err
	}
	return settled(ctx, namespace, owner)
}

// settled waits for the owner's pods and tells how soon the youngest was ready.
func settled(ctx context.Context, namespace, owner string) (string, error) {
	if _, err := kubectl(ctx, "-n", namespace, "rollout", "status", owner, "--timeout=240s"); err != nil {
		return "", errors.Join(err, describe(ctx, namespace))
	}
	_, app, _ := strings.Cut(owner, "/")
	var youngest pod
	err := until(ctx, time.Minute, "ready pods of "+app, func() error {
		ps, err := pods(ctx, namespace, app)
		for _, p := range ps {
			if !p.ready {
				err = errors.Join(err, errors.New(p.name+" is not ready"))
			}
			if p.accepted.After(youngest.accepted) {
				youngest = p
			}
		}
		return err
	})
	return youngest.soon(), err
}

// soon says how quickly a pod was ready. Kubernetes tells whole seconds, so each difference is right to one.
func (p pod) soon() string {
	return fmt.Sprintf("ready %.0f s after its containers started, %.0f s after the node took it on",
		p.since.Sub(p.started).Seconds(), p.since.Sub(p.accepted).Seconds())
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
	return settled(ctx, edgeNamespace, edgeOwner)
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

// restartEdge replaces the agent's pod without waiting for the new one.
func restartEdge(ctx context.Context) error {
	_, err := kubectl(ctx, "-n", edgeNamespace, "delete", "pod", "-l", "app.kubernetes.io/name=edge-agent", "--wait=true")
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
	if err := restartEdge(ctx); err != nil {
		return "", err
	}
	took, err := t.acknowledges(ctx, time.Minute)
	if err != nil {
		return "", err
	}
	note, err = settled(ctx, edgeNamespace, edgeOwner)
	return fmt.Sprintf("a PUBACK %.1f s after the old pod was gone; %s", took.Seconds(), note), err
}
