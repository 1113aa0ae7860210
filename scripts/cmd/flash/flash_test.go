package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/holdfast-edge/holdfast/scripts/internal/card"
	"github.com/holdfast-edge/holdfast/scripts/internal/card/cardtest"
	"github.com/holdfast-edge/holdfast/scripts/internal/disks"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// What makes no sense is refused with the flag and what is wanted.
func TestSenselessFlagsAreRefused(t *testing.T) {
	f := func(args, word string) {
		t.Helper()
		_, err := parse(strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", args, err, word)
		}
	}
	const good = "--image a --output b --agent pi "
	f("--device /dev/sdb --agent pi", "want --image")
	f("--image a --agent pi", "--device or --output")
	f("--image a --device b --output c --agent pi", "not both")
	f("--image a --output b", "--agent")
	f("--image a --output b --agent Pi.1", "a-z, 0-9 and -")
	f("--image a --output b --agent -pi", "--hostname")
	f(good+"--first-boot other", "--first-boot")
	f(good+"--arch riscv", "--arch")
	f(good+"--cloud https://c", "go together")
	f(good+"--cloud c --token-file t", "https://HOST")
	f(good+"--identity d --keep-identity", "not both")
	f(good+"--mqtt-user u", "go together")
	f(good+"--mqtt-listen 0.0.0.0:1883", "--mqtt-user")
	f(good+"--hostname a_b", "--hostname")
	f(good+"--timezone ../etc", "--timezone")
	f(good+"--user Root", "--user")
	f(good+"--wifi w", "go together")
	f(good+"--wifi w --wifi-password-file p", "--wifi-country")
	f(good+"--k3s-binary k", "--k3s server")
	f(good+"more", "unexpected argument")
}

// Help names every flag there is.
func TestHelpIsComplete(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("error = %v", err)
	}
	for i := range reflect.TypeFor[options]().NumField() {
		name := reflect.TypeFor[options]().Field(i).Name
		flagName := map[string]string{"keep": "keep-identity", "form": "first-boot", "packages": "package", "k3sSHA256": "k3s-sha256"}[name]
		if flagName == "" {
			for _, r := range strings.NewReplacer("URL", "Url", "SHA", "Sha").Replace(name) {
				if r >= 'A' && r <= 'Z' {
					flagName += "-"
				}
				flagName += strings.ToLower(string(r))
			}
		}
		if !strings.Contains(out.String(), "--"+flagName) {
			t.Errorf("help lacks --%s", flagName)
		}
	}
}

// flasherFor returns a flasher whose machine has these disks and whose owner types an answer.
func flasherFor(t *testing.T, o options, answer string, all ...disks.Disk) (*flasher, *os.File) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	check(t, err)
	return &flasher{options: o, screen: term.New(out), in: strings.NewReader(answer), disks: func() ([]disks.Disk, error) { return all, nil }}, out
}

func text(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	check(t, err)
	return string(b)
}

// The disk's own name has to be typed; anything else writes nothing. Its model and size are shown.
func TestConfirmation(t *testing.T) {
	d := disks.Disk{Path: "/dev/sdb", Model: "Generic SD/MMC", Size: 15_931_539_456, Removable: true}
	for answer, good := range map[string]bool{"/dev/sdb\n": true, " /dev/sdb": true, "yes\n": false, "/dev/sda\n": false, "": false} {
		f, out := flasherFor(t, options{}, answer)
		if err := f.confirm(d); (err == nil) != good {
			t.Errorf("%q: %v", answer, err)
		}
		if shown := text(t, out); !strings.Contains(shown, "15.9 GB") || !strings.Contains(shown, "Generic SD/MMC") {
			t.Errorf("shown: %s", shown)
		}
	}
	f, _ := flasherFor(t, options{yes: true}, "")
	check(t, f.confirm(d))
}

// Without a device, candidates are listed with model and size, and the others with why they are left alone.
func TestListOfDisks(t *testing.T) {
	f, out := flasherFor(t, options{}, "",
		disks.Disk{Path: "/dev/sda", System: true}, disks.Disk{Path: "/dev/sdb", Model: "Reader", Size: 32e9, Removable: true})
	check(t, f.list(t.Context()))
	if shown := text(t, out); !strings.Contains(shown, "/dev/sdb           32.0 GB  Reader") || !strings.Contains(shown, "/dev/sda: this machine runs from it") {
		t.Errorf("shown: %s", shown)
	}
}

// A device that must not be written, or is none, ends the run before the image is even looked at.
func TestDeviceIsCheckedFirst(t *testing.T) {
	path, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	device := filepath.Join(path, "sdb")
	check(t, os.WriteFile(device, nil, 0o600))
	base := options{image: "nowhere.img", agent: "pi", device: device}
	for _, c := range []struct {
		disk disks.Disk
		want error
	}{
		{disks.Disk{Path: device, Removable: true, Size: 1, System: true}, disks.ErrSystem},
		{disks.Disk{Path: device, Removable: true, Size: 1, Mounted: []string{"/media/x"}}, disks.ErrMounted},
		{disks.Disk{Path: device, Size: 1}, disks.ErrFixed},
		{disks.Disk{Path: "/dev/other"}, disks.ErrNotListed},
	} {
		f, _ := flasherFor(t, base, "", c.disk)
		if err := f.flash(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

// An image with another digest than promised, or with none at all, ends the run with what to do.
func TestDigestIsChecked(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "a.img")
	check(t, os.WriteFile(image, []byte("an image"), 0o600))
	f, _ := flasherFor(t, options{image: image}, "")
	if err := f.checkImage(t.Context()); err == nil || !strings.Contains(err.Error(), "--sha256") {
		t.Errorf("no digest: %v", err)
	}
	f.sha256 = strings.Repeat("0", 64)
	if err := f.checkImage(t.Context()); !errors.Is(err, card.ErrHash) {
		t.Errorf("wrong digest: %v", err)
	}
	sum := sha256.Sum256([]byte("an image"))
	f.sha256 = strings.ToUpper(hex.EncodeToString(sum[:]))
	check(t, f.checkImage(t.Context()))
}

// A password becomes a bcrypt hash, the listener opens with it, and a token is named by its file alone.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	o := options{
		agent: "pi", cloud: "https://cloud.example", tokenFile: file("token", "id.secret.root\n"), mqttUser: "sensors",
		mqttPasswordFile: file("password", "tell nobody\r\n"), envFile: file("env", "# mine\nHOLDFAST_NATS_USER=edge\n\nHOLDFAST_NATS_PASSWORD=a=b\n"),
	}
	s, err := o.settings(dir)
	check(t, err)
	_, hash, _ := strings.Cut(strings.TrimSpace(string(s.Files["users"])), ":")
	check(t, bcrypt.CompareHashAndPassword([]byte(hash), []byte("tell nobody")))
	got := map[string]string{}
	for _, v := range s.Environment {
		got[v.Name] = v.Value
	}
	for name, want := range map[string]string{
		"EDGE_AGENT": "pi", "EDGE_INTAKE__MQTT__LISTEN": "0.0.0.0:1883", "EDGE_ENROL__TOKEN_FILE": "/etc/holdfast/enrol-token",
		"HOLDFAST_NATS_USER": "edge", "HOLDFAST_NATS_PASSWORD": "a=b",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	if string(s.Files["enrol-token"]) != "id.secret.root\n" {
		t.Errorf("token: %q", s.Files["enrol-token"])
	}
	for name, wrong := range map[string]options{
		"a token": {tokenFile: file("bad", "nothing\n")}, "the private key": {sshKey: file("key", "-----BEGIN OPENSSH PRIVATE KEY-----\n")},
		"one line": {mqttUser: "u", mqttPasswordFile: file("two", "a\nb\n")}, "8 to 63": {wifi: "w", wifiPasswordFile: file("short", "short\n")},
	} {
		if _, err := wrong.settings(dir); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// The bar shows how much is done, how fast, and how long it still takes.
func TestProgressBar(t *testing.T) {
	const want = "writing   [############............]  50 %    10.0 MB/s  10s left"
	if got := bar("writing", 100e6, 200e6, 10*time.Second); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := bar("verifying", 1, 1, 0); !bytes.Contains([]byte(got), []byte("100 %")) {
		t.Errorf("%q", got)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a folder with an image, its digest and a package, and flags that flash it to a file.
func world(t *testing.T) options {
	t.Helper()
	dir := t.TempDir()
	image := cardtest.Image(t)
	sum := sha256.Sum256(image)
	pkg := filepath.Join(dir, "holdfast-edge_1_arm64.deb")
	check(t, os.WriteFile(filepath.Join(dir, "pi.img"), image, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "pi.img.sha256"), []byte(hex.EncodeToString(sum[:])+"  pi.img\n"), 0o600))
	check(t, os.WriteFile(pkg, bytes.Repeat([]byte("package "), 1000), 0o600))
	return options{image: filepath.Join(dir, "pi.img"), output: filepath.Join(dir, "card.img"), agent: "pi", packages: []string{pkg}}
}

// A card in a file is the image with the node on its boot partition, and says what was done.
func TestFlashToAFile(t *testing.T) {
	o := world(t)
	f, out := flasherFor(t, o, "")
	check(t, f.flash(t.Context()))
	written, err := os.Open(o.output)
	check(t, err)
	defer written.Close()
	boot, err := card.OpenBoot(t.Context(), written, t.TempDir())
	check(t, err)
	defer boot.Close()
	for _, name := range []string{"holdfast.tar", "holdfast-first-boot.sh", "holdfast-firstrun.sh"} {
		if b, err := boot.Read(name); err != nil || len(b) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := boot.Read("cmdline.txt"); err != nil || !strings.Contains(string(b), "systemd.run=/boot/firmware/holdfast-firstrun.sh") {
		t.Errorf("cmdline.txt: %s, %v", b, err)
	}
	if shown := text(t, out); !strings.Contains(shown, "written and verified") {
		t.Errorf("shown: %s", shown)
	}
}

// A dry run looks at everything and writes nothing.
func TestDryRun(t *testing.T) {
	o := world(t)
	o.dryRun = true
	f, out := flasherFor(t, o, "")
	check(t, f.flash(t.Context()))
	if left, err := filepath.Glob(o.output + "*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if shown := text(t, out); !strings.Contains(shown, "nothing was written") {
		t.Errorf("shown: %s", shown)
	}
}

// A card that is too small for the image is refused with both sizes, before it is opened.
func TestCardTooSmall(t *testing.T) {
	o := world(t)
	o.device, o.output = o.image, "" // any path that exists
	device, err := disks.Canonical(o.device)
	check(t, err)
	f, _ := flasherFor(t, o, "", disks.Disk{Path: device, Size: cardtest.Size - 512, Removable: true})
	if err := f.flash(t.Context()); err == nil || !strings.Contains(err.Error(), "take a larger card") {
		t.Errorf("error = %v", err)
	}
}

// A boot partition without room for the node, and an image that is no image, end the run and leave no card.
func TestNothingIsLeftOfAFailure(t *testing.T) {
	fails := func(o options, want error) {
		t.Helper()
		f, _ := flasherFor(t, o, "")
		if err := f.flash(t.Context()); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if left, err := filepath.Glob(o.output + "*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	o := world(t)
	check(t, os.Truncate(o.packages[0], cardtest.BootSize))
	fails(o, card.ErrFull)
	o = world(t)
	check(t, os.Truncate(o.image, cardtest.Size-1<<20))
	fails(o, card.ErrHash)
	sum, err := card.Sum(t.Context(), o.image, nil)
	check(t, err)
	o.sha256 = sum // the digest of what was downloaded, as some would take it
	fails(o, card.ErrTruncated)
	o = world(t)
	o.keep = true
	fails(o, os.ErrNotExist) // there is no card to keep anything of
}
