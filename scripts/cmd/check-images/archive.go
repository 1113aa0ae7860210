package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// blobs are the files of an OCI layout.
type blobs func(name string) ([]byte, error)

// descriptor points to a blob.
type descriptor struct {
	MediaType   string
	Digest      string
	Annotations map[string]string
}

// manifest is an index or an image's manifest: the layout tells them apart by what they hold.
type manifest struct {
	Manifests []descriptor
	Config    descriptor
	Layers    []descriptor
}

// open returns the images of a folder or an archive, each with what is wrong with it.
func open(name string) ([]image, error) {
	get, err := layout(name)
	if err != nil {
		return nil, err
	}
	var index manifest
	if err := get.json("index.json", &index); err != nil {
		return nil, err
	}
	var all []image
	for _, d := range index.Manifests {
		full := d.Annotations["io.containerd.image.name"]
		if full == "" {
			full = d.Annotations["org.opencontainers.image.ref.name"]
		}
		images, err := get.images(d, full)
		if err != nil {
			return nil, err
		}
		all = append(all, images...)
	}
	if len(all) == 0 {
		return nil, errors.New("no image in it")
	}
	return all, nil
}

// images follows an index to the images in it; attestations stand beside the images that they are about.
func (get blobs) images(d descriptor, name string) ([]image, error) {
	var m manifest
	if err := get.json(blob(d.Digest), &m); err != nil {
		return nil, err
	}
	if len(m.Manifests) == 0 {
		i, err := get.image(m, image{name: name, digest: d.Digest})
		return []image{i}, err
	}
	var all []image
	about := map[string][]string{}
	for _, sub := range m.Manifests {
		if of := sub.Annotations["vnd.docker.reference.digest"]; of != "" {
			kinds, err := get.attestations(sub)
			if err != nil {
				return nil, err
			}
			about[of] = kinds
			continue
		}
		images, err := get.images(sub, name)
		if err != nil {
			return nil, err
		}
		all = append(all, images...)
	}
	for n := range all {
		all[n].attestations = about[all[n].digest]
	}
	return all, nil
}

func (get blobs) image(m manifest, i image) (image, error) {
	var c config
	if err := get.json(blob(m.Config.Digest), &c); err != nil {
		return i, err
	}
	var layers [][]byte
	for _, l := range m.Layers {
		b, err := get(blob(l.Digest))
		if err != nil {
			return i, err
		}
		layers = append(layers, b)
	}
	return i, i.judge(c, layers)
}

// attestations names what is attested: the last part of each predicate's type.
func (get blobs) attestations(d descriptor) ([]string, error) {
	var m manifest
	if err := get.json(blob(d.Digest), &m); err != nil {
		return nil, err
	}
	var kinds []string
	for _, l := range m.Layers {
		kinds = append(kinds, strings.TrimPrefix(l.Annotations["in-toto.io/predicate-type"], "https://"))
	}
	return kinds, nil
}

func (get blobs) json(name string, into any) error {
	b, err := get(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func blob(digest string) string {
	return "blobs/" + strings.Replace(digest, ":", "/", 1)
}

// layout reads a folder as it is, and an archive into memory: ours are some tens of megabytes.
func layout(name string) (blobs, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root := os.DirFS(name)
		return func(name string) ([]byte, error) { return fs.ReadFile(root, name) }, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		files[path.Clean(h.Name)] = b
	}
	return func(name string) ([]byte, error) {
		b, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("no %s in it", name)
		}
		return b, nil
	}, nil
}
