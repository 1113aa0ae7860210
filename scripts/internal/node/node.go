// Package node decides what goes onto a card's boot partition so that its first
// boot makes the system there a Holdfast node: with cloud-init's files where the
// image has it, and with a script that systemd starts otherwise. Both leave the
// work to one script that can be cut short anywhere and begins anew at the next
// boot.
package node

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed assets
var assets embed.FS

// Form is how a system is told what to do at its first boot.
type Form string

// The forms.
const (
	CloudInit Form = "cloud-init" // Raspberry Pi OS from trixie on
	FirstRun  Form = "firstrun"   // Raspberry Pi OS to bookworm, and Debian's own images for the Pi
)

// Settings are a node's own.
type Settings struct {
	Agent    string // the agent's id
	Hostname string // empty: as the agent
	TimeZone string // such as Europe/Berlin; empty: as it is

	User string // who the SSH key is for; empty: pi
	Keys string // authorized_keys; empty: as it is
	WiFi WiFi

	Environment []Variable        // of agent and sidecar: node.env
	Files       map[string][]byte // further files of /etc/holdfast, such as users, by name
	Data        map[string][]byte // agent.key and enrolment.json, for /var/lib/holdfast
	Watchdog    bool              // the hardware's

	Packages []string // paths of holdfast-edge_*.deb
	State    string   // path of an archive of /var/lib/holdfast to bring back
	K3s      *K3s     // nil: none
	Card     string   // tells this card from all others
}

// WiFi is a network to join; zero: none.
type WiFi struct{ SSID, Password, Country string }

// Variable is one of the environment.
type Variable struct{ Name, Value string }

// Boot is the boot partition of an image.
type Boot interface {
	Names() ([]string, error)
	Label() string
	Read(name string) ([]byte, error) // fs.ErrNotExist when there is none
}

// Detect returns the form that an image wants: the one with cloud-init's files on
// its boot partition has cloud-init.
func Detect(b Boot) (Form, error) {
	names, err := b.Names()
	if err != nil {
		return "", err
	}
	if has(names, "user-data") && has(names, "meta-data") {
		return CloudInit, nil
	}
	return FirstRun, nil
}

// Arches returns the architectures, as Debian calls them, that a card with these
// kernels may have. A 32-bit system has kernels for 64 bits beside its own.
func Arches(b Boot) ([]string, error) {
	names, err := b.Names()
	if err != nil {
		return nil, err
	}
	if has(names, "kernel.img") || has(names, "kernel7.img") || has(names, "kernel7l.img") {
		return []string{"armhf", "arm64"}, nil
	}
	return []string{"arm64"}, nil
}

func has(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// mount returns where the system mounts its boot partition.
func mount(b Boot) string {
	if strings.EqualFold(b.Label(), "boot") { // to bullseye
		return "/boot"
	}
	return "/boot/firmware"
}

// commandLine returns cmdline.txt with what the node wants in it. It is one line,
// and what starts firstrun comes last: the script cuts it off from there.
func commandLine(b Boot, s Settings, form Form) (string, error) {
	text, err := b.Read("cmdline.txt")
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	line, _, _ = strings.Cut(line, " systemd.run=") // of somebody's earlier first boot
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", errors.New("cmdline.txt on the boot partition is empty")
	}
	add := func(w string) {
		if !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	if s.K3s != nil {
		add("cgroup_memory=1")
		add("cgroup_enable=memory")
	}
	if form == FirstRun {
		add("systemd.run=" + mount(b) + "/holdfast-firstrun.sh")
		add("systemd.run_success_action=reboot")
		add("systemd.unit=kernel-command-line.target")
	}
	return strings.Join(words, " ") + "\n", nil
}

// configTxt returns config.txt with the hardware watchdog switched on.
func configTxt(b Boot) (string, error) {
	const want = "dtparam=watchdog=on"
	text, err := b.Read("config.txt")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == want {
			return string(text), nil
		}
	}
	return strings.TrimRight(string(text), "\n") + "\n\n[all]\n" + want + "\n", nil
}

// env writes node.env as systemd reads it: in double quotes, with what is special
// in there escaped.
func env(vars []Variable) (string, error) {
	var b strings.Builder
	b.WriteString("# Written when this card was flashed. It goes before agent.yaml and sidecar.env; change it, then restart the units.\n")
	for _, v := range vars {
		if strings.ContainsAny(v.Value, "\n\r\x00") {
			return "", fmt.Errorf("%s has a line break in it", v.Name)
		}
		fmt.Fprintf(&b, "%s=\"%s\"\n", v.Name, strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`).Replace(v.Value))
	}
	return b.String(), nil
}
