package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

const swagger = `{"definitions": {
  "io.k8s.api.apps.v1.Deployment": {"type": "object",
    "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "spec": {"$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentSpec"}},
    "x-kubernetes-group-version-kind": [{"group": "apps", "kind": "Deployment", "version": "v1"}]},
  "io.k8s.api.apps.v1.DeploymentSpec": {"type": "object",
    "properties": {"surge": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
  "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"}
}}`

const crds = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  group: dapr.io
  names: {kind: Component}
  versions:
    - name: v1alpha1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, properties: {type: {type: string}}}
---
kind: Other
`

// Each kind gets the file that kubeconform asks for, unknown fields are closed and free maps stay open.
func TestKindsAndStrictness(t *testing.T) {
	dir := t.TempDir()
	in, crd, out := filepath.Join(dir, "swagger.json"), filepath.Join(dir, "crd.yaml"), filepath.Join(dir, "out")
	for path, text := range map[string]string{in: swagger, crd: crds} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(in, out, []string{crd}); err != nil {
		t.Fatal(err)
	}
	read(t, out, "deployment-apps-v1.json")
	spec := read(t, out, definitions)["definitions"].(object)["io.k8s.api.apps.v1.DeploymentSpec"].(object)
	if spec["additionalProperties"] != false {
		t.Error("an unknown field of a Deployment would pass")
	}
	if got := spec["properties"].(object)["labels"].(object)["additionalProperties"]; got == false {
		t.Error("a map of labels was closed")
	}
	component := read(t, out, "component-dapr-v1alpha1.json")["allOf"].([]any)[0].(object)
	if component["properties"].(object)["spec"].(object)["additionalProperties"] != false {
		t.Error("an unknown field of a custom resource would pass")
	}
}

func read(t *testing.T, dir, name string) object {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var v object
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
