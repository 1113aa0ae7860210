package node

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// partition is a boot partition in memory.
type partition struct {
	label string
	files map[string]string
	full  bool
}

func (p partition) Names() ([]string, error) { return slices.Sorted(maps.Keys(p.files)), nil }
func (p partition) Label() string            { return p.label }

func (p partition) Read(name string) ([]byte, error) {
	if text, ok := p.files[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

var errFull = errors.New("full")

func (p partition) Write(name string, r io.Reader) error {
	if p.full {
		return errFull
	}
	b, err := io.ReadAll(r)
	p.files[name] = string(b)
	return err
}

func trixie() partition {
	return partition{label: "bootfs", files: map[string]string{
		"cmdline.txt": "console=serial0,115200 root=PARTUUID=1 rootwait\n", "config.txt": "arm_64bit=1\n[all]\n",
		"kernel8.img": "", "user-data": "#", "meta-data": "#", "network-config": "#",
	}}
}

func bookworm() partition {
	p := trixie()
	for _, name := range []string{"user-data", "meta-data", "network-config"} {
		delete(p.files, name)
	}
	return p
}

func settings(t *testing.T) Settings {
	t.Helper()
	pkg := filepath.Join(t.TempDir(), "holdfast-edge_1_arm64.deb")
	if err := os.WriteFile(pkg, []byte("package"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Settings{
		Agent: "greenhouse-1", TimeZone: "Europe/Berlin", Keys: "ssh-ed25519 AAAA me@home\n", Card: "abc", Packages: []string{pkg},
		WiFi:        WiFi{SSID: `Green "House": #1`, Password: `p'a"ss\word$`, Country: "DE"},
		Environment: []Variable{{"EDGE_AGENT", "greenhouse-1"}, {"HOLDFAST_NATS_PASSWORD", `a"b$c\d`}},
		Files:       map[string][]byte{"users": []byte("sensors:hash\n")},
	}
}

// contents returns the files in an archive.
func contents(t *testing.T, text string) map[string]string {
	t.Helper()
	files := map[string]string{}
	r := tar.NewReader(strings.NewReader(text))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(b)
	}
}

func install(t *testing.T, p partition, s Settings) partition {
	t.Helper()
	form, err := Detect(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := Install(p, s, form); err != nil {
		t.Fatal(err)
	}
	return p
}

// An image with cloud-init gets its files; secrets are in the archive that the first boot deletes, but for the Wi-Fi's, which cloud-init reads.
func TestCloudInit(t *testing.T) {
	p := install(t, trixie(), settings(t))
	for _, want := range []string{`hostname: "greenhouse-1"`, `timezone: "Europe/Berlin"`, `"ssh-ed25519 AAAA me@home"`, "/boot/firmware/holdfast-first-boot.sh, arm"} {
		if !strings.Contains(p.files["user-data"], want) {
			t.Errorf("user-data lacks %s:\n%s", want, p.files["user-data"])
		}
	}
	if !strings.Contains(p.files["network-config"], `"Green \"House\": #1"`) || !strings.Contains(p.files["meta-data"], "instance-id: holdfast-abc") {
		t.Errorf("network-config %s, meta-data %s", p.files["network-config"], p.files["meta-data"])
	}
	if strings.Contains(p.files["cmdline.txt"], "systemd.run") || p.files["holdfast-firstrun.sh"] != "" {
		t.Errorf("firstrun is there too: %s", p.files["cmdline.txt"])
	}
	got := contents(t, p.files["holdfast.tar"])
	if got["holdfast-edge_1_arm64.deb"] != "package" || got["etc/users"] != "sensors:hash\n" || got["wifi-ssid"] != "" {
		t.Errorf("archive: %q", got)
	}
	for name, text := range p.files {
		if name != "holdfast.tar" && strings.Contains(text, "sensors:hash") {
			t.Errorf("a secret is in %s", name)
		}
	}
}

// Without Wi-Fi, what the image says about the network stays.
func TestNetworkStaysWithoutWiFi(t *testing.T) {
	s := settings(t)
	s.WiFi = WiFi{}
	if p := install(t, trixie(), s); p.files["network-config"] != "#" {
		t.Errorf("network-config: %s", p.files["network-config"])
	}
}

// An image without cloud-init gets a script that systemd runs once, named last in the one line of cmdline.txt; an earlier one's is replaced.
func TestFirstRun(t *testing.T) {
	p := bookworm()
	p.files["cmdline.txt"] = "console=tty1 root=PARTUUID=1 systemd.run=/boot/other.sh systemd.unit=x.target\n"
	install(t, p, settings(t))
	const want = "console=tty1 root=PARTUUID=1 systemd.run=/boot/firmware/holdfast-firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target\n"
	if p.files["cmdline.txt"] != want {
		t.Errorf("cmdline.txt: %s", p.files["cmdline.txt"])
	}
	got := contents(t, p.files["holdfast.tar"])
	if got["hostname.txt"] != "greenhouse-1" || got["user"] != "pi" || got["wifi-country"] != "DE" || p.files["user-data"] != "" {
		t.Errorf("archive: %q", got)
	}
	old := bookworm()
	old.label = "boot"
	if install(t, old, settings(t)); !strings.Contains(old.files["cmdline.txt"], "systemd.run=/boot/holdfast-firstrun.sh") {
		t.Errorf("bullseye mounts it at /boot: %s", old.files["cmdline.txt"])
	}
}

// K3s gets the memory control group, once, and an archive with the installer and its arguments.
func TestK3s(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "k3s-arm64")
	if err := os.WriteFile(binary, []byte("elf"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := settings(t)
	s.K3s = &K3s{Root: "../../..", Binary: binary, SHA256: "00", Images: []string{binary}, OfflineRoute: true}
	p := trixie()
	p.files["cmdline.txt"] = "root=x cgroup_memory=1\n"
	install(t, p, s)
	if p.files["cmdline.txt"] != "root=x cgroup_memory=1 cgroup_enable=memory\n" {
		t.Errorf("cmdline.txt: %s", p.files["cmdline.txt"])
	}
	got := contents(t, p.files["holdfast-k3s.tar"])
	if got["arguments"] != "--binary\nk3s\n--sha256\n00\n--server\n--images\nimages/k3s-arm64\n--offline-route\n" || got["k3s"] != "elf" ||
		!strings.Contains(got["scripts/k3s-install"], "#!/usr/bin/env bash") || got["k3s/node/server.yaml"] == "" {
		t.Errorf("%q", slices.Sorted(maps.Keys(got)))
	}
}

// A K3s that could not be installed is refused before anything is written.
func TestK3sWantsItsProgram(t *testing.T) {
	f := func(k K3s, want string) {
		t.Helper()
		if err := k.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", k, err, want)
		}
	}
	f(K3s{}, "--k3s-binary")
	f(K3s{Binary: "k3s"}, "--k3s-sha256")
	f(K3s{Binary: "k3s", SHA256: "00", Server: "https://a:6443"}, "--k3s-token-file")
}

// The hardware watchdog is switched on once, below [all], and nothing in config.txt is lost.
func TestWatchdog(t *testing.T) {
	s := settings(t)
	s.Watchdog = true
	p := install(t, trixie(), s)
	once := p.files["config.txt"]
	if !strings.HasPrefix(once, "arm_64bit=1\n") || !strings.HasSuffix(once, "[all]\ndtparam=watchdog=on\n") {
		t.Errorf("config.txt: %s", once)
	}
	if install(t, p, s); p.files["config.txt"] != once {
		t.Errorf("twice: %s", p.files["config.txt"])
	}
	if contents(t, p.files["holdfast.tar"])["watchdog.conf"] == "" {
		t.Error("systemd does not know of it")
	}
}

// A 32-bit system carries kernels for 64 bits too: its card gets both packages, and its first boot takes the one that fits.
func TestArchitectures(t *testing.T) {
	p := bookworm()
	if got, err := Arches(p); err != nil || fmt.Sprint(got) != "[arm64]" {
		t.Errorf("%v, %v", got, err)
	}
	p.files["kernel7l.img"] = ""
	if got, err := Arches(p); err != nil || fmt.Sprint(got) != "[armhf arm64]" {
		t.Errorf("%v, %v", got, err)
	}
}

// What the environment file says is what systemd reads; a value with a line break is refused.
func TestEnvironmentIsQuoted(t *testing.T) {
	text, err := env(settings(t).Environment)
	if err != nil || !strings.Contains(text, `HOLDFAST_NATS_PASSWORD="a\"b\$c\\d"`) {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := env([]Variable{{"A", "b\nC=d"}}); err == nil {
		t.Error("a line break was taken")
	}
}

// A boot partition that is full ends the making of the archive, and the error is the partition's.
func TestFullPartition(t *testing.T) {
	p := trixie()
	p.full = true
	if err := Install(p, settings(t), CloudInit); !errors.Is(err, errFull) {
		t.Errorf("error = %v", err)
	}
}

// The script that ends firstrun keeps the length of cmdline.txt, so that one sector is written, and leaves the rest of the line as it was.
func TestFirstRunTakesItselfOut(t *testing.T) {
	dir := t.TempDir()
	const line = "console=tty1 root=PARTUUID=1 rootwait"
	const more = " systemd.run=/boot/firmware/holdfast-firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target\n"
	script, err := assets.ReadFile("assets/firstrun.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"firstrun.sh": string(script), "cmdline.txt": line + more, "holdfast-first-boot.sh": "echo $1 >>$(dirname $0)/called\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", filepath.Join(dir, "firstrun.sh")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "cmdline.txt"))
	if err != nil || len(got) != len(line+more) || strings.TrimSpace(string(got)) != line || !bytes.HasSuffix(got, []byte("\n")) {
		t.Errorf("%q, %v", got, err)
	}
	called, err := os.ReadFile(filepath.Join(dir, "called"))
	if err != nil || string(called) != "system\narm-only\n" {
		t.Errorf("%q, %v", called, err)
	}
}
