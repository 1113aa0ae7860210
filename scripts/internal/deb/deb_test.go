package deb_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/deb"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
)

// story is what happens to the package on a Debian that is a throw-away layer over this one. Each check prints what is wrong.
const story = `
set -eu
want() { if ! eval "$1"; then echo "WRONG after $step: $1"; fi; }
unit=/etc/systemd/system/multi-user.target.wants/holdfast-agent.service
data=/var/lib/holdfast/outbox/segment

step="installing 1.0"
dpkg -i "$P/holdfast-edge_1.0_$A.deb"
want 'getent passwd holdfast >/dev/null'
want '[ "$(edge-agent)" = "agent 1.0" ]'
want '[ -L $unit ]'
want '[ "$(stat -c %a /etc/holdfast/sidecar.env)" = 600 ]'
want '[ -f /usr/share/holdfast/components/nats/pubsub.yaml ]'
mkdir -p /var/lib/holdfast/outbox
echo reading >$data
echo "# mine" >>/etc/holdfast/agent.yaml
echo EDGE_AGENT=pi >/etc/holdfast/node.env
echo token >/etc/holdfast/enrol-token
rm -f /etc/systemd/system/multi-user.target.wants/holdfast-sidecar.service # who disables a unit means it

for v in 2.0 1.0; do
  step="going to $v"
  dpkg -i "$P/holdfast-edge_${v}_$A.deb"
  want '[ "$(edge-agent)" = "agent $v" ]'
  want 'grep -q "# mine" /etc/holdfast/agent.yaml'
  want 'grep -q reading $data'
  want '[ -f /etc/holdfast/node.env ]'
  want '[ "$(stat -c %G:%a /etc/holdfast/enrol-token)" = holdfast:640 ]'
done

step="an upgrade that was cut while unpacking"
dpkg --unpack "$P/holdfast-edge_2.0_$A.deb"
dpkg --configure -a
want '[ "$(edge-agent)" = "agent 2.0" ]'
want 'grep -q reading $data'

step=removal
dpkg -r holdfast-edge
want '[ ! -e /usr/bin/edge-agent ]'
want '[ ! -L $unit ]'
want 'grep -q reading $data'
want 'grep -q "# mine" /etc/holdfast/agent.yaml'

step="installing again"
dpkg -i "$P/holdfast-edge_2.0_$A.deb"
want 'grep -q reading $data'
want 'grep -q "# mine" /etc/holdfast/agent.yaml'
want '[ -L $unit ]'

step=purge
dpkg -P holdfast-edge
want '[ ! -e /var/lib/holdfast ]'
want '[ ! -e /etc/holdfast ]'
want '[ -z "$(dpkg --audit)" ]'
echo "the end"
`

// Upgrade, downgrade, removal and a new installation keep data and settings; purge alone takes them. It is dpkg itself that does it.
func TestLifeOfThePackage(t *testing.T) {
	for _, program := range []string{"dpkg", "unshare", "systemd-sysusers"} {
		require.Program(t, program)
	}
	if os.Getuid() != 0 {
		require.Missing(t, "root", "only root can lay a throw-away layer over this system")
	}
	dir := t.TempDir()
	for _, v := range []string{"1.0", "2.0"} {
		pack(t, dir, v)
	}
	// The layer is in memory, in a namespace of its own: nothing is left of it.
	const layer = `mount -t tmpfs none "$L" && mkdir "$L/u" "$L/w" "$L/m" &&
mount -t overlay none -o "lowerdir=/,upperdir=$L/u,workdir=$L/w" "$L/m" && mount -t proc none "$L/m/proc" && mount -t tmpfs none "$L/m/run" && mount --bind /dev "$L/m/dev" &&
mkdir "$L/m/packages" && cp "$D"/*.deb "$L/m/packages/" && P=/packages exec chroot "$L/m" sh -c "$S"`
	cmd := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", layer)
	cmd.Env = append(os.Environ(), "L="+t.TempDir(), "D="+dir, "S="+story, "A="+arch(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("mount:")) {
		require.Missing(t, "overlay", string(out))
	}
	if err != nil || bytes.Contains(out, []byte("WRONG")) || !bytes.HasSuffix(bytes.TrimSpace(out), []byte("the end")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// pack makes a package with programs that only say their version.
func pack(t *testing.T, dir, version string) {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"edge-agent", "daprd"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho agent "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path, err := deb.Pack(t.Context(), build.Builder{Root: root, Bin: bin, Out: io.Discard}, deb.Arch(arch()), version, dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := "holdfast-edge_" + version + "_" + arch() + ".deb"; filepath.Base(path) != want {
		t.Fatalf("%s, want %s", path, want)
	}
}

func arch() string { return strings.Replace(runtime.GOARCH, "arm", "armhf", 1) }

// An agent that systemd's own analysis calls exposed by more than 2.5 of 10 does not pass.
func TestUnitsAreHardened(t *testing.T) {
	require.Program(t, "systemd-analyze")
	for unit, most := range map[string]string{"holdfast-agent.service": "25", "holdfast-sidecar.service": "25"} {
		// The programs need not be here for this.
		text, err := os.ReadFile(filepath.Join("../../../edge-agent/packaging/systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), unit)
		text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("/usr/bin/edge-agent"), []byte("/bin/true")), []byte("/usr/libexec/holdfast/daprd"), []byte("/bin/true"))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold="+most, path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out[max(0, len(out)-400):])
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// What is no architecture of a package is refused with those that are.
func TestUnknownArchitecture(t *testing.T) {
	_, err := deb.Build(t.Context(), build.Builder{}, "mips", "1.0", t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "want arm64, armhf or amd64") {
		t.Errorf("error = %v", err)
	}
}
