package node

import (
	"archive/tar"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Writer takes files onto the boot partition.
type Writer interface {
	Write(name string, r io.Reader) error
}

// Install puts everything that the settings want onto a boot partition.
func Install(b interface {
	Boot
	Writer
}, s Settings, form Form,
) error {
	texts, err := s.texts(b, form)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if err := b.Write(name, strings.NewReader(texts[name])); err != nil {
			return err
		}
	}
	if err := stream(b, "holdfast.tar", func(t *archive) error { return s.archive(t, form) }); err != nil {
		return err
	}
	if s.K3s != nil {
		if err := stream(b, "holdfast-k3s.tar", s.K3s.archive); err != nil {
			return err
		}
	}
	if s.State == "" {
		return nil
	}
	f, err := os.Open(s.State)
	if err != nil {
		return err
	}
	defer f.Close()
	return b.Write("holdfast-state.tar.gz", f)
}

// texts are the files that are read from the boot partition as they are.
func (s Settings) texts(b Boot, form Form) (map[string]string, error) {
	setup, err := assets.ReadFile("assets/holdfast-first-boot.sh")
	if err != nil {
		return nil, err
	}
	texts := map[string]string{"holdfast-first-boot.sh": string(setup)}
	if texts["cmdline.txt"], err = commandLine(b, s, form); err != nil {
		return nil, err
	}
	if s.Watchdog {
		if texts["config.txt"], err = configTxt(b); err != nil {
			return nil, err
		}
	}
	if form == FirstRun {
		script, err := assets.ReadFile("assets/firstrun.sh")
		if err != nil {
			return nil, err
		}
		texts["holdfast-firstrun.sh"] = string(script)
		return texts, nil
	}
	texts["meta-data"] = "# Written by Holdfast. Another id would make cloud-init do everything again.\ndsmode: local\ninstance-id: holdfast-" + s.Card + "\n"
	texts["user-data"] = s.userData(mount(b))
	if s.WiFi.SSID != "" {
		texts["network-config"] = s.networkConfig()
	}
	return texts, nil
}

// userData: a JSON string is a YAML string, so nothing in a name can break out.
func (s Settings) userData(mount string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#cloud-config\n# Written by Holdfast.\nhostname: %s\nmanage_etc_hosts: true\n", quote(s.hostname()))
	if s.TimeZone != "" {
		fmt.Fprintf(&b, "timezone: %s\n", quote(s.TimeZone))
	}
	if s.Keys != "" {
		fmt.Fprintf(&b, "ssh_pwauth: false\nusers:\n- name: %s\n  groups: users,adm,dialout,audio,video,plugdev,netdev,sudo\n"+
			"  shell: /bin/bash\n  lock_passwd: true\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  ssh_authorized_keys:\n", quote(s.user()))
		for line := range strings.Lines(s.Keys) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				fmt.Fprintf(&b, "  - %s\n", quote(line))
			}
		}
	}
	// At every boot, and long before the network; it is over at once when there is nothing left to do.
	fmt.Fprintf(&b, "bootcmd:\n- [ sh, %s/holdfast-first-boot.sh, arm ]\n", mount)
	return b.String()
}

func (s Settings) networkConfig() string {
	var b strings.Builder
	b.WriteString("# Written by Holdfast.\nversion: 2\nethernets:\n  eth0:\n    dhcp4: true\n    optional: true\nwifis:\n  wlan0:\n    dhcp4: true\n    optional: true\n")
	if s.WiFi.Country != "" {
		fmt.Fprintf(&b, "    regulatory-domain: %s\n", quote(s.WiFi.Country))
	}
	fmt.Fprintf(&b, "    access-points:\n      %s:\n        password: %s\n", quote(s.WiFi.SSID), quote(s.WiFi.Password))
	return b.String()
}

func (s Settings) hostname() string { return cmp.Or(s.Hostname, s.Agent) }
func (s Settings) user() string     { return cmp.Or(s.User, "pi") }

func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string that JSON cannot hold: " + err.Error()) // Marshal replaces what is no UTF-8
	}
	return string(text)
}

// archive puts together what the first boot unpacks: secrets are in here alone,
// and go with it.
func (s Settings) archive(t *archive, form Form) error {
	vars, err := env(s.Environment)
	if err != nil {
		return err
	}
	t.text("etc/node.env", vars)
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		t.text("etc/"+name, string(s.Files[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Data)) {
		t.text("data/"+name, string(s.Data[name]))
	}
	if s.Keys != "" {
		t.text("ssh", "") // Raspberry Pi OS comes with the server off
	}
	t.text("sysusers.conf", "u holdfast - \"Holdfast\" /var/lib/holdfast\n")
	if s.Watchdog {
		t.text("watchdog.conf", "[Manager]\nRuntimeWatchdogSec=14s\nRebootWatchdogSec=10min\n")
	}
	if form == FirstRun {
		s.system(t)
	}
	for _, p := range s.Packages {
		t.file(filepath.Base(p), p)
	}
	return t.err
}

// system is for the script that does what cloud-init does elsewhere.
func (s Settings) system(t *archive) {
	t.text("hostname.txt", s.hostname())
	if s.TimeZone != "" {
		t.text("timezone", s.TimeZone)
	}
	if s.Keys != "" {
		t.text("user", s.user())
		t.text("authorized_keys", s.Keys)
	}
	w := s.WiFi
	if w.SSID == "" {
		return
	}
	t.text("wifi-ssid", w.SSID)
	t.text("wifi-password", w.Password)
	t.text("wifi-country", w.Country)
	t.text("wifi.nmconnection", fmt.Sprintf("[connection]\nid=holdfast-wifi\ntype=wifi\n\n[wifi]\nssid=%s\n\n[wifi-security]\nkey-mgmt=wpa-psk\npsk=%s\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n",
		keyfile(w.SSID), keyfile(w.Password)))
	t.text("wpa_supplicant.conf", fmt.Sprintf("ctrl_interface=DIR=/var/run/wpa_supplicant GROUP=netdev\ncountry=%s\nnetwork={\n\tssid=%x\n\tpsk=\"%s\"\n}\n",
		w.Country, w.SSID, w.Password))
}

// keyfile escapes what NetworkManager's files give a meaning to.
func keyfile(s string) string {
	return strings.NewReplacer(`\`, `\\`, ";", `\;`, " ", `\s`).Replace(s)
}

// archive is a tar file in the making. Its first error stays.
type archive struct {
	w   *tar.Writer
	err error
}

func (t *archive) text(name, text string) {
	t.add(name, 0o600, int64(len(text)), strings.NewReader(text))
}

func (t *archive) file(name, path string) {
	if t.err != nil {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.err = err
		return
	}
	t.add(name, int64(info.Mode().Perm()), info.Size(), f)
}

func (t *archive) add(name string, mode, size int64, r io.Reader) {
	if t.err != nil {
		return
	}
	if t.err = t.w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: size, Typeflag: tar.TypeReg}); t.err == nil {
		_, t.err = io.Copy(t.w, r)
	}
}

// stream writes an archive to the boot partition while it is being made.
func stream(b Writer, name string, fill func(*archive) error) error {
	r, w := io.Pipe()
	go func() {
		t := &archive{w: tar.NewWriter(w)}
		err := fill(t)
		if err == nil {
			err = t.w.Close()
		}
		w.CloseWithError(err)
	}()
	err := b.Write(name, r)
	r.CloseWithError(cmp.Or(err, io.ErrClosedPipe)) // ends the other side when this one gave up
	return err
}
