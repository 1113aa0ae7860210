package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// kubectl runs it and returns its standard output; an error holds what it said.
func kubectl(ctx context.Context, args ...string) (string, error) {
	return command(ctx, "", "kubectl", args...)
}

// apply hands objects to kubectl apply.
func apply(ctx context.Context, objects ...any) error {
	list, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	_, err = command(ctx, string(list), "kubectl", "apply", "-f", "-")
	return err
}

func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// shell runs one of the user's commands with an argument after it.
func shell(ctx context.Context, text, arg string) error {
	_, err := command(ctx, "", "sh", "-c", text+` "$@"`, "sh", arg)
	return err
}

// patch merges changes into an object, as kubectl edit would.
func patch(ctx context.Context, namespace, what string, change object) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = kubectl(ctx, "-n", namespace, "patch", what, "--patch", string(text))
	return err
}

// pod is what the test needs to know of one.
type pod struct {
	name     string
	ip       string
	ready    bool
	since    time.Time      // when it became ready
	accepted time.Time      // when its node took it on
	started  time.Time      // when the last of its containers started
	restarts map[string]int // by container
}

func pods(ctx context.Context, namespace, app string) ([]pod, error) {
	out, err := kubectl(ctx, "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name="+app, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string     `json:"name"`
				DeletionTimestamp *time.Time `json:"deletionTimestamp"`
			} `json:"metadata"`
			Status struct {
				PodIP      string    `json:"podIP"`
				StartTime  time.Time `json:"startTime"`
				Containers []struct {
					Name     string `json:"name"`
					Restarts int    `json:"restartCount"`
					State    struct {
						Running struct {
							StartedAt time.Time `json:"startedAt"`
						} `json:"running"`
					} `json:"state"`
				} `json:"containerStatuses"`
				Conditions []struct {
					Type   string    `json:"type"`
					Status string    `json:"status"`
					Since  time.Time `json:"lastTransitionTime"`
				} `json:"conditions"`
			} `json:"status"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var ps []pod
	for _, i := range list.Items {
		if i.Metadata.DeletionTimestamp != nil {
			continue
		}
		p := pod{name: i.Metadata.Name, ip: i.Status.PodIP, accepted: i.Status.StartTime, restarts: map[string]int{}}
		for _, c := range i.Status.Containers {
			p.restarts[c.Name] = c.Restarts
			if at := c.State.Running.StartedAt; at.After(p.started) {
				p.started = at
			}
		}
		for _, c := range i.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				p.ready, p.since = true, c.Since
			}
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// readyPods wants every pod of an app to be ready, and returns the youngest.
func readyPods(ctx context.Context, namespace, app string) (youngest pod, err error) {
	ps, err := pods(ctx, namespace, app)
	for _, p := range ps {
		if !p.ready {
			err = errors.Join(err, errors.New(p.name+" is not ready"))
		}
		if p.accepted.After(youngest.accepted) {
			youngest = p
		}
	}
	return youngest, err
}

// theOnly returns the single pod of an app.
func theOnly(ctx context.Context, namespace, app string) (pod, error) {
	ps, err := pods(ctx, namespace, app)
	if err != nil {
		return pod{}, err
	}
	if len(ps) != 1 {
		return pod{}, fmt.Errorf("%d pods of %s, want 1", len(ps), app)
	}
	return ps[0], nil
}

// until asks again and again, as long as the answer is an error.
func until(ctx context.Context, limit time.Duration, what string, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not after %s: %w", what, limit, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+)`)

// forward keeps a port of a Service open on this machine while f runs. Forwarding ends with the pod behind it: callers begin anew.
func forward(ctx context.Context, namespace, target, port string, f func(ctx context.Context, address string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "kubectl", "-n", namespace, "port-forward", target, ":"+port)
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return err
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			go func() { // it writes a line for each connection
				for lines.Scan() {
				}
			}()
			return f(ctx, "127.0.0.1:"+m[1])
		}
	}
	return errors.New("kubectl port-forward ended: " + strings.TrimSpace(errOut.String()))
}
