package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	edgeNamespace  = "holdfast-edge"
	cloudNamespace = "holdfast"
	edgeOwner      = "daemonset/edge-agent"
	edgeLabel      = "holdfast.dev/role"
	edgeRole       = "edge"
	mqttUser       = "sensors"
	natsHost       = "nats.holdfast.svc"
	natsURL        = "nats://" + natsHost + ":4222"
)

type object = map[string]any

func secret(namespace, name string, values map[string]string) object {
	return object{
		"apiVersion": "v1", "kind": "Secret", "metadata": object{"namespace": namespace, "name": name}, "stringData": values,
	}
}

// preflight refuses a cluster on which the test would prove nothing or harm something.
func (t *test) preflight(ctx context.Context) error {
	for _, ns := range []string{edgeNamespace, cloudNamespace} {
		if _, err := kubectl(ctx, "get", "namespace", ns); err == nil {
			return fmt.Errorf("the namespace %s exists: this test wants its own, and deletes it in the end", ns)
		}
	}
	if _, err := kubectl(ctx, "get", "crd", "components.dapr.io", "subscriptions.dapr.io"); err != nil {
		return fmt.Errorf("Dapr is not installed: %w", err)
	}
	env, err := kubectl(ctx, "get", "deployment", "-A", "-l", "app=dapr-sidecar-injector", "-o", "jsonpath={..env[?(@.name=='SIDECAR_DROP_ALL_CAPABILITIES')].value}")
	if err != nil || env != "true" {
		return errors.New("Dapr's injector does not drop capabilities: helm upgrade dapr … --reuse-values --set dapr_sidecar_injector.sidecarDropALLCapabilities=true")
	}
	if t.node == "" {
		t.node, err = kubectl(ctx, "get", "nodes", "-l", edgeLabel+"="+edgeRole, "-o", "jsonpath={.items[0].metadata.name}")
		if err != nil {
			return errors.New("no node has the label " + edgeLabel + "=" + edgeRole)
		}
	}
	t.metrics = hasMetrics(ctx)
	t.agent = strings.ReplaceAll(strings.ToLower(t.node), ".", "-")
	t.nodeAddress, err = kubectl(ctx, "get", "node", t.node, "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}")
	return err
}

// deploy brings both sides up, the cloud first because the token comes from it.
func (t *test) deploy(ctx context.Context) error {
	for _, a := range t.archives {
		t.screen.Event("loading %s", filepath.Base(a))
		if err := shell(ctx, t.load, a); err != nil {
			return err
		}
	}
	if err := t.deployCloud(ctx); err != nil {
		return err
	}
	return t.deployEdge(ctx)
}

func (t *test) deployCloud(ctx context.Context) error {
	t.screen.Event("deploying the cloud's half, %s", t.half())
	t.access, t.password = rand.Text(), rand.Text()
	sum := sha256.Sum256([]byte(t.access))
	text := fmt.Sprintf(cloudOverlay, t.tag, t.half())
	if _, err := kubectl(ctx, "get", "crd", "servicemonitors.monitoring.coreos.com"); t.dsn != "" && err != nil {
		text += withoutOperator
	}
	dir, err := t.overlay("cloud", text)
	if err != nil {
		return err
	}
	t.readers = secret(cloudNamespace, "holdfast-access", map[string]string{"tokens": hex.EncodeToString(sum[:]) + " test\n"})
	objects := []any{
		object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": cloudNamespace}},
		t.readers,
	}
	t.nats = map[string]string{"HOLDFAST_NATS_URL": natsURL}
	if t.dsn != "" {
		more, err := t.production(ctx)
		if err != nil {
			return err
		}
		objects = append(objects, more...)
	}
	if err := apply(ctx, objects...); err != nil {
		return err
	}
	if _, err := kubectl(ctx, "apply", "-k", dir); err != nil {
		return err
	}
	begin := time.Now()
	for _, what := range []string{"statefulset/nats", "deployment/cloud-api"} {
		if _, err := kubectl(ctx, "-n", cloudNamespace, "rollout", "status", what, "--timeout=180s"); err != nil {
			return errors.Join(err, describe(ctx, cloudNamespace))
		}
	}
	t.screen.Event("broker and API are up after %.0f s", time.Since(begin).Seconds())
	if t.dsn == "" {
		return nil
	}
	if _, err := kubectl(ctx, "-n", cloudNamespace, "wait", "--for=condition=complete", "job/cloud-api-migrate", "--timeout=60s"); err != nil {
		return errors.Join(err, describe(ctx, cloudNamespace))
	}
	return nil
}

func (t *test) half() string {
	if t.dsn != "" {
		return "production"
	}
	return "dev"
}

// cloudOverlay keeps the cloud's pods off the edge nodes, so that a cut lies between the two. Its autoscaler wants another replica for less work
// than a small and busy machine still gets done, and takes it back without waiting for five minutes.
const cloudOverlay = `resources: [BASE/cloud-api/kubernetes/overlays/%[2]s]
images:
- {name: ghcr.io/holdfast-edge/cloud-api, newTag: %[1]s}
patches:
- target: {kind: Deployment|StatefulSet|Job}
  patch: |-
    - op: add
      path: /spec/template/spec/affinity
      value: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
        {matchExpressions: [{key: holdfast.dev/role, operator: NotIn, values: [edge]}]}]}}}
- target: {kind: Deployment}
  patch: |-
    - op: replace
      path: /spec/template/metadata/annotations/dapr.io~1sidecar-image
      value: ghcr.io/holdfast-edge/daprd-edge:%[1]s
- target: {kind: HorizontalPodAutoscaler}
  patch: |-
    - op: replace
      path: /spec/behavior/scaleDown/stabilizationWindowSeconds
      value: 15
    - op: replace
      path: /spec/metrics/0/containerResource/target/averageUtilization
      value: 40
`

// withoutOperator leaves out what only a cluster with the Prometheus Operator takes.
const withoutOperator = `- patch: |-
    $patch: delete
    apiVersion: monitoring.coreos.com/v1
    kind: ServiceMonitor
    metadata: {name: cloud-api, namespace: holdfast}
`

func (t *test) deployEdge(ctx context.Context) error {
	t.screen.Event("deploying the edge's half on %s", t.node)
	token, err := kubectl(ctx, "-n", cloudNamespace, "exec", "deployment/cloud-api", "-c", "cloud-api", "--",
		"/cloud-api", "token", "create", "--config", "/etc/holdfast/cloud.yaml", "--agent", t.agent)
	if err != nil {
		return err
	}
	components, err := t.edgeSecrets(ctx, token)
	if err != nil {
		return err
	}
	dir, err := t.overlay("edge", fmt.Sprintf(`resources: [BASE/k3s/overlays/pi]
components: %[4]s
images:
- {name: ghcr.io/holdfast-edge/edge-agent, newTag: %[1]s}
- {name: ghcr.io/holdfast-edge/daprd-edge, newTag: %[1]s}
patches:
- patch: |-
    apiVersion: apps/v1
    kind: DaemonSet
    metadata: {name: edge-agent, namespace: holdfast-edge}
    spec:
      template:
        spec:
          nodeSelector: {kubernetes.io/hostname: %[2]s}
          containers:
          - name: edge-agent
            env:
            - {name: EDGE_ENROL__URL, value: "http://cloud-api.holdfast.svc:8080"}
- target: {kind: PersistentVolume, name: holdfast-edge-data}
  patch: |-
    - op: replace
      path: /spec/hostPath/path
      value: %[3]s
`, t.tag, t.node, t.data, components))
	if err != nil {
		return err
	}
	if _, err := kubectl(ctx, "apply", "-k", dir); err != nil {
		return err
	}
	if err := t.edgeReady(ctx, 120*time.Second); err != nil {
		return errors.Join(err, describe(ctx, edgeNamespace))
	}
	return until(ctx, 2*time.Minute, "the cloud hears of the agent", func() error {
		_, err := t.cloudAgent(ctx)
		return err
	})
}

// edgeSecrets makes what the overlay has no business to hold, and names the components that it is deployed with.
func (t *test) edgeSecrets(ctx context.Context, token string) (components string, err error) {
	objects := []any{
		object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": edgeNamespace}},
		secret(edgeNamespace, "holdfast-nats", t.nats),
		secret(edgeNamespace, "holdfast-enrol", map[string]string{"token": token}),
	}
	if t.mosquitto {
		more, err := t.mosquittoSecrets()
		if err != nil {
			return "", err
		}
		return "[BASE/k3s/components/mosquitto]", apply(ctx, append(objects, more...)...)
	}
	if t.users, err = usersSecret(map[string]string{mqttUser: t.password}); err != nil {
		return "", err
	}
	return "[]", apply(ctx, append(objects, t.users)...)
}

// usersSecret holds the file of the agent's users.
func usersSecret(passwords map[string]string) (object, error) {
	var lines string
	for user, password := range passwords {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		lines += user + ":" + string(hash) + "\n"
	}
	return secret(edgeNamespace, "holdfast-mqtt-users", map[string]string{"users": lines}), nil
}

func (t *test) edgeReady(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, "the agent's pod is ready", func() error {
		p, err := theOnly(ctx, edgeNamespace, "edge-agent")
		if err == nil && !p.ready {
			err = errors.New(p.name + " is not ready")
		}
		return err
	})
}

// overlay writes a kustomization outside the repository; BASE in it becomes the way there.
func (t *test) overlay(name, text string) (string, error) {
	dir := filepath.Join(t.work, name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	base, err := filepath.Rel(dir, t.root)
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(strings.ReplaceAll(text, "BASE", base)), 0o600)
}

// describe is what a person would look at when a pod does not come up.
func describe(ctx context.Context, namespace string) error {
	events, _ := kubectl(ctx, "-n", namespace, "get", "pods,events", "--sort-by=.metadata.creationTimestamp")
	return errors.New("in " + namespace + ":\n" + events)
}

// remove deletes what deploy made. The volume has no namespace.
func (t *test) remove(ctx context.Context) error {
	if t.keep {
		t.screen.Event("everything stays deployed")
		return nil
	}
	_, err := kubectl(ctx, "delete", "namespace", edgeNamespace, cloudNamespace, "--ignore-not-found", "--timeout=120s")
	_, err2 := kubectl(ctx, "delete", "pv/holdfast-edge-data", "priorityclass/holdfast-edge", "--ignore-not-found", "--timeout=60s")
	return errors.Join(err, err2)
}
