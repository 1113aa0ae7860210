package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// K3s says how K3s is installed beside the agent, by scripts/k3s-install.
type K3s struct {
	Root         string   // of the repository: the installer and its files
	Server       string   // URL of the site's server to join; empty: this node is one
	TokenFile    string   // for joining
	Binary       string   // the k3s program
	SHA256       string   // of it
	Images       []string // archives, for a node that reaches no registry
	OfflineRoute bool     // K3s does not start without a default route
}

// Validate says what is missing.
func (k K3s) Validate() error {
	switch {
	case k.Binary == "":
		return errors.New("K3s wants its program: --k3s-binary FILE, from https://github.com/k3s-io/k3s/releases")
	case k.SHA256 == "":
		return errors.New("K3s wants its program's digest: --k3s-sha256 HEX, from sha256sum-arm64.txt of the same release")
	case k.Server != "" && k.TokenFile == "":
		return errors.New("a K3s node that joins a server wants its token: --k3s-token-file FILE")
	case strings.ContainsAny(k.Server, " \n"):
		return fmt.Errorf("K3s server %q: want https://ADDRESS:6443", k.Server)
	}
	return nil
}

func (k K3s) archive(t *archive) error {
	t.file("scripts/k3s-install", filepath.Join(k.Root, "scripts", "k3s-install"))
	for _, name := range []string{"server.yaml", "agent.yaml", "registries.yaml", "10-holdfast-offline.netdev", "10-holdfast-offline.network"} {
		t.file("k3s/node/"+name, filepath.Join(k.Root, "k3s", "node", name))
	}
	args := []string{"--binary", "k3s", "--sha256", k.SHA256}
	t.file("k3s", k.Binary)
	if k.Server == "" {
		args = append(args, "--server")
	} else {
		args = append(args, "--agent", k.Server, "--token-file", "token")
		t.file("token", k.TokenFile)
	}
	for _, path := range k.Images {
		name := filepath.Base(path)
		t.file("images/"+name, path)
		args = append(args, "--images", "images/"+name)
	}
	if k.OfflineRoute {
		args = append(args, "--offline-route")
	}
	t.text("arguments", strings.Join(args, "\n")+"\n")
	return t.err
}
