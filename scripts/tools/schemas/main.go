// Command schemas writes the JSON schemas that kubeconform checks manifests with, from Kubernetes' own OpenAPI file and from files of custom
// resource definitions. It needs no network, unlike kubeconform's usual source.
//
// A field that its schema does not know is an error in what it writes, as with kubectl's strict validation.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

func main() {
	swagger := flag.String("swagger", "", "api/openapi-spec/swagger.json of k8s.io/kubernetes")
	out := flag.String("out", "", "folder for the schemas")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: schemas -swagger FILE -out FOLDER [CRD.yaml ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *swagger == "" || *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*swagger, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(swagger, out string, crds []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := fromSwagger(swagger, out); err != nil {
		return fmt.Errorf("%s: %w", swagger, err)
	}
	for _, f := range crds {
		if err := fromCRDs(f, out); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

type object = map[string]any

type kind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

// file is the name that kubeconform's {{.ResourceKind}}{{.KindSuffix}} makes: deployment-apps-v1, service-v1, component-dapr-v1alpha1.
func (k kind) file() string {
	group, _, _ := strings.Cut(k.Group, ".")
	parts := []string{k.Kind, group, k.Version}
	if group == "" {
		parts = []string{k.Kind, k.Version}
	}
	return strings.ToLower(strings.Join(parts, "-")) + ".json"
}

func (k kind) apiVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// definitions holds every type of Kubernetes; the files of the kinds refer to it, so that it is stored once.
const definitions = "_definitions.json"

func fromSwagger(path, out string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc struct {
		Definitions map[string]object `json:"definitions"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	if len(doc.Definitions) == 0 {
		return errors.New("no definitions in it")
	}
	for name, def := range doc.Definitions {
		kinds, err := kindsOf(def)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if special(name, def) {
			continue
		}
		tighten(def)
		if len(kinds) == 1 { // more than one: DeleteOptions and the like, which no manifest holds
			if err := writeKind(out, kinds[0], object{"$ref": definitions + "#/definitions/" + name}); err != nil {
				return err
			}
		}
	}
	return writeJSON(filepath.Join(out, definitions), object{"definitions": doc.Definitions})
}

// special replaces the two types whose schema says less than the API server accepts.
func special(name string, def object) bool {
	switch {
	case strings.HasSuffix(name, "intstr.IntOrString"):
		delete(def, "type")
		def["oneOf"] = []any{object{"type": "string"}, object{"type": "integer"}}
	case strings.HasSuffix(name, "resource.Quantity"):
		delete(def, "type")
		def["oneOf"] = []any{object{"type": "string"}, object{"type": "number"}}
	default:
		return false
	}
	delete(def, "format")
	return true
}

func kindsOf(def object) ([]kind, error) {
	raw, ok := def["x-kubernetes-group-version-kind"]
	if !ok {
		return nil, nil
	}
	data, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	var ks []kind
	return ks, json.Unmarshal(data, &ks)
}

func writeKind(out string, k kind, schema object) error {
	return writeJSON(filepath.Join(out, k.file()), object{
		"$schema": "http://json-schema.org/draft-07/schema#",
		"allOf": []any{schema, object{
			"required": []any{"apiVersion", "kind"},
			"properties": object{
				"apiVersion": object{"const": k.apiVersion()},
				"kind":       object{"const": k.Kind},
			},
		}},
	})
}

// tighten closes every object that lists its properties, everywhere below it, and lets null stand for an absent optional value, as the API
// server does.
func tighten(v any) {
	switch v := v.(type) {
	case object:
		if v["x-kubernetes-int-or-string"] == true {
			special("intstr.IntOrString", v)
		}
		_, listed := v["properties"].(object)
		_, open := v["additionalProperties"]
		if listed && !open && v["x-kubernetes-preserve-unknown-fields"] != true {
			v["additionalProperties"] = false
		}
		for key, child := range v {
			if key == "properties" {
				for _, p := range child.(object) {
					tighten(p)
				}
				continue
			}
			tighten(child)
		}
	case []any:
		for _, child := range v {
			tighten(child)
		}
	}
}

type crd struct {
	Kind string `yaml:"kind"`
	Spec struct {
		Group string `yaml:"group"`
		Names struct {
			Kind string `yaml:"kind"`
		} `yaml:"names"`
		Versions []struct {
			Name   string `yaml:"name"`
			Schema struct {
				OpenAPI object `yaml:"openAPIV3Schema"`
			} `yaml:"schema"`
		} `yaml:"versions"`
	} `yaml:"spec"`
}

func fromCRDs(path, out string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var c crd
		err := dec.Decode(&c)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.Kind != "CustomResourceDefinition" {
			continue
		}
		if err := writeCRD(c, out); err != nil {
			return err
		}
	}
}

func writeCRD(c crd, out string) error {
	for _, v := range c.Spec.Versions {
		schema := v.Schema.OpenAPI
		if props, ok := schema["properties"].(object); ok {
			// A definition may leave these out: the API server adds them.
			props["apiVersion"], props["kind"], props["metadata"] = object{"type": "string"}, object{"type": "string"}, object{"type": "object"}
		}
		tighten(schema)
		if err := writeKind(out, kind{Group: c.Spec.Group, Version: v.Name, Kind: c.Spec.Names.Kind}, schema); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
