package k3sinstall_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// node is a machine's file system in a folder; the script installs there and touches nothing else.
type node struct {
	t    *testing.T
	root string
}

func newNode(t *testing.T) *node {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the script is for Linux")
	}
	n := &node{t: t, root: t.TempDir()}
	n.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
	n.write("boot/firmware/cmdline.txt", "console=tty1 rootwait\n")
	return n
}

func (n *node) write(name, text string) string {
	n.t.Helper()
	path := filepath.Join(n.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// install runs the script and returns what it said and whether it succeeded.
func (n *node) install(args ...string) (string, bool) {
	n.t.Helper()
	cmd := exec.Command("../../k3s-install", args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ROOT_DIR="+n.root)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// program is a file that looks like one for this machine, and its digest.
func (n *node) program() (path, sum string) {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		n.t.Fatal(err)
	}
	b = b[:4096] // its header is what is looked at
	digest := sha256.Sum256(b)
	return n.write("download/k3s", string(b)), hex.EncodeToString(digest[:])
}

func (n *node) tree() string {
	n.t.Helper()
	var names []string
	err := filepath.WalkDir(n.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		names = append(names, path+" "+info.Mode().String()+" "+info.ModTime().String())
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// Nothing is changed as long as anything is wrong, and each fault says how to mend it.
func TestFaultsChangeNothing(t *testing.T) {
	n := newNode(t)
	path, sum := n.program()
	elsewhere := n.write("download/other", "\x7fELF"+strings.Repeat("\x00", 14)+"\xff\xff")
	otherSum := sha256.Sum256([]byte("\x7fELF" + strings.Repeat("\x00", 14) + "\xff\xff"))
	f := func(want string, args ...string) {
		t.Helper()
		before := n.tree()
		out, ok := n.install(args...)
		if ok || !strings.Contains(out, want) {
			t.Errorf("%v: succeeded %v, want %q in:\n%s", args, ok, want, out)
		}
		if n.tree() != before {
			t.Errorf("%v: files were changed", args)
		}
	}
	f("no K3s program", "--server")
	f("no digest", "--server", "--binary", path)
	f("another digest", "--server", "--binary", path, "--sha256", strings.Repeat("0", 64))
	f("another processor", "--server", "--binary", elsewhere, "--sha256", hex.EncodeToString(otherSum[:]))
	f("is not there or empty", "--server", "--binary", path, "--sha256", sum, "--images", "/nowhere.tar")
	f("no token", "--agent", "https://192.0.2.1:6443", "--binary", path, "--sha256", sum)
	f("wants a number", "--server", "--data-user", "pi")
	n.write("etc/rancher/k3s/config.yaml", "write-kubeconfig-mode: \"0644\"\n")
	f("was not written by this script", "--server", "--binary", path, "--sha256", sum)
	n.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
	f("cgroup_enable=memory' to the one line of /boot/firmware/cmdline.txt", "--check")
}

// A dry run says what would be done and does none of it.
func TestDryRun(t *testing.T) {
	n := newNode(t)
	path, sum := n.program()
	before := n.tree()
	out, ok := n.install("--server", "--binary", path, "--sha256", sum, "--dry-run")
	if !ok || !strings.Contains(out, "/usr/local/bin/k3s") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("succeeded %v:\n%s", ok, out)
	}
	if n.tree() != before {
		t.Error("files were changed")
	}
}

// Settings, program, images and the folder for the readings arrive; a second run finds everything as it should be.
func TestInstallTwice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving the folder to the agent's user needs root")
	}
	n := newNode(t)
	path, sum := n.program()
	args := []string{"--agent", "https://192.0.2.7:6443", "--token-file", n.write("download/token", "secret\n"), "--binary", path, "--sha256", sum, "--images", n.write("download/edge.tar", "archive"), "--offline-route"}
	if out, ok := n.install(args...); !ok {
		t.Fatal(out)
	}
	config, err := os.ReadFile(filepath.Join(n.root, "etc/rancher/k3s/config.yaml"))
	if err != nil || !strings.Contains(string(config), "\nserver: https://192.0.2.7:6443\n") || !strings.Contains(string(config), "holdfast.dev/role=edge") {
		t.Errorf("%v: settings:\n%s", err, config)
	}
	for name, mode := range map[string]fs.FileMode{
		"usr/local/bin/k3s": 0o755, "etc/rancher/k3s/token": 0o600, "var/lib/holdfast": 0o700 | fs.ModeDir,
		"var/lib/rancher/k3s/agent/images/edge.tar": 0o644, "etc/systemd/network/10-holdfast-offline.network": 0o644, "etc/systemd/system/k3s.service": 0o644,
	} {
		info, err := os.Stat(filepath.Join(n.root, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, want mode %v", name, err, mode)
		}
	}
	before := n.tree()
	if out, ok := n.install(args...); !ok || strings.Contains(out, "  /") {
		t.Errorf("the second run changed something:\n%s", out)
	}
	if n.tree() != before {
		t.Error("the second run touched files")
	}
}
