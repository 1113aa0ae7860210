package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
)

// withoutSecret shows that nothing of the sidecar's is needed for an acknowledgement.
func withoutSecret(ctx context.Context, t *test) (string, error) {
	if _, err := kubectl(ctx, "-n", edgeNamespace, "delete", "secret", "holdfast-nats"); err != nil {
		return "", err
	}
	if err := edgeHalf.restart(ctx); err != nil {
		return "", err
	}
	took, err := t.acknowledges(ctx, time.Minute)
	if err != nil {
		return "", err
	}
	if err := apply(ctx, secret(edgeNamespace, "holdfast-nats", t.nats)); err != nil {
		return "", err
	}
	if err := edgeHalf.restart(ctx); err != nil {
		return "", err
	}
	_, err = settled(ctx, edgeHalf)
	return fmt.Sprintf("a PUBACK without it %.1f s after the old pod was gone", took.Seconds()), err
}

// withoutUsers shows that a missing Secret that is needed keeps the pod waiting with an event that names it.
func withoutUsers(ctx context.Context, t *test) (string, error) {
	return edgeHalf.withoutSecret(ctx, t.users)
}

// newUser shows that a changed Secret is taken up by the agent that runs.
func newUser(ctx context.Context, t *test) (string, error) {
	const name = "newcomer"
	password := rand.Text()
	if _, err := t.acknowledgesTo(ctx, name, password, 5*time.Second); err == nil {
		return "", errors.New("somebody unknown had a PUBACK")
	}
	before, err := theOnly(ctx, edgeNamespace, edgeHalf.app)
	if err != nil {
		return "", err
	}
	users, err := usersSecret(map[string]string{mqttUser: t.password, name: password})
	if err != nil {
		return "", err
	}
	if err := apply(ctx, users); err != nil {
		return "", err
	}
	t.users = users
	took, err := t.acknowledgesTo(ctx, name, password, 4*time.Minute) // kubelets look once a minute or so
	if err != nil {
		return "", err
	}
	after, err := theOnly(ctx, edgeNamespace, edgeHalf.app)
	if err == nil && (after.name != before.name || after.restarts[edgeHalf.app] != before.restarts[edgeHalf.app]) {
		err = errors.New("the agent was started again for it")
	}
	return fmt.Sprintf("a PUBACK for him %.0f s after the Secret was changed, without a restart", took.Seconds()), err
}

// withoutAccess shows the same of the cloud's half.
func withoutAccess(ctx context.Context, t *test) (string, error) {
	return cloudHalf.withoutSecret(ctx, t.readers)
}

func (h half) withoutSecret(ctx context.Context, s object) (string, error) {
	name := s["metadata"].(object)["name"].(string)
	if _, err := kubectl(ctx, "-n", h.namespace, "delete", "secret", name); err != nil {
		return "", err
	}
	if err := h.restart(ctx); err != nil {
		return "", err
	}
	said := h.says(ctx, fmt.Sprintf("secret %q not found", name))
	ctx = context.WithoutCancel(ctx)
	if err := apply(ctx, s); err != nil {
		return "", err
	}
	// The kubelet tries again after up to two minutes; a new pod need not wait for that.
	if err := h.restart(ctx); err != nil {
		return "", errors.Join(said, err)
	}
	_, err := settled(ctx, h)
	return "an event named it", errors.Join(said, err)
}

// invalidConfig rolls out settings with a value that is none.
func invalidConfig(ctx context.Context, _ *test) (string, error) {
	return edgeHalf.misconfigured(ctx, "agent.yaml", "data: /var/lib/holdfast\noutbox:\n  full: explode\n", "outbox.full")
}

// invalidCloudConfig does so on the other side.
func invalidCloudConfig(ctx context.Context, _ *test) (string, error) {
	return cloudHalf.misconfigured(ctx, "cloud.yaml", "public:\n  listen: nowhere\n", "public.listen")
}

func (h half) misconfigured(ctx context.Context, file, text, key string) (string, error) {
	err := apply(ctx, object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"namespace": h.namespace, "name": "invalid"}, "data": object{file: text},
	})
	if err != nil {
		return "", err
	}
	return h.mistake(ctx, object{"volumes": []any{object{"name": "config", "configMap": object{"name": "invalid"}}}}, key)
}

// readOnly takes away what the agent cannot work without.
func readOnly(ctx context.Context, _ *test) (string, error) {
	mount := object{"name": "data", "mountPath": "/var/lib/holdfast", "readOnly": true}
	return edgeHalf.mistake(ctx, object{"containers": []any{object{"name": "edge-agent", "volumeMounts": []any{mount}}}}, "read-only file system")
}

// foreignImage rolls out what the node's processor cannot run, or what the runtime does not take for it.
func foreignImage(ctx context.Context, t *test) (string, error) {
	return edgeHalf.mistake(ctx, object{"containers": []any{object{"name": "edge-agent", "image": t.foreign}}},
		"exec format error", "no match for platform")
}

// mistake rolls out a pod template with something wrong in it, and takes it back once words and the pod's state say so.
func (h half) mistake(ctx context.Context, podSpec object, words ...string) (note string, err error) {
	before, err := readyPods(ctx, h.namespace, h.app)
	if err != nil {
		return "", err
	}
	if err := patch(ctx, h.namespace, h.owner, object{"spec": object{"template": object{"spec": podSpec}}}); err != nil {
		return "", err
	}
	said := h.says(ctx, words...)
	if p, err := readyPods(ctx, h.namespace, h.app); err == nil && p.name != before.name {
		said = errors.Join(said, errors.New("the pod is ready all the same"))
	}
	ctx = context.WithoutCancel(ctx)
	if _, err := kubectl(ctx, "-n", h.namespace, "rollout", "undo", h.owner); err != nil {
		return "", errors.Join(said, err)
	}
	_, err = settled(ctx, h)
	return fmt.Sprintf("told: %q", strings.Join(words, " or ")), errors.Join(said, err)
}

// says waits until the half's log, its pods' state or an event holds one of the words.
func (h half) says(ctx context.Context, words ...string) error {
	return until(ctx, 90*time.Second, "somebody says "+strings.Join(words, " or "), func() error {
		label := "app.kubernetes.io/name=" + h.app
		var all strings.Builder
		for _, args := range [][]string{
			{"logs", "-l", label, "-c", h.app, "--tail=20"},
			{"get", "pods", "-l", label, "-o", "jsonpath={..message}"},
			{"get", "events", "-o", "jsonpath={.items[*].message}"},
		} {
			out, _ := kubectl(ctx, append([]string{"-n", h.namespace}, args...)...) // a log that is not there yet is no fault
			all.WriteString(out + "\n")
		}
		for _, w := range words {
			if strings.Contains(all.String(), w) {
				return nil
			}
		}
		return errors.New("nobody does")
	})
}

// unlabelled shows that a node without the label runs no agent, and that the data waits for it there.
func unlabelled(ctx context.Context, t *test) (string, error) {
	label := func(ctx context.Context, change string) error {
		_, err := kubectl(ctx, "label", "node", t.node, change)
		return err
	}
	if err := label(ctx, edgeLabel+"-"); err != nil {
		return "", err
	}
	gone := until(ctx, time.Minute, "no pod on a node without the label", func() error {
		out, err := kubectl(ctx, "-n", edgeNamespace, "get", edgeOwner, "-o", "jsonpath={.status.desiredNumberScheduled}")
		if err == nil && out != "0" {
			err = errors.New(out + " are desired")
		}
		ps, err2 := pods(ctx, edgeNamespace, "edge-agent")
		if len(ps) > 0 {
			err2 = errors.New("there is one still")
		}
		return errors.Join(err, err2)
	})
	if err := label(context.WithoutCancel(ctx), edgeLabel+"="+edgeRole); err != nil {
		return "", errors.Join(gone, err)
	}
	return "0 desired meanwhile", errors.Join(gone, t.edgeReady(ctx, 4*time.Minute))
}
