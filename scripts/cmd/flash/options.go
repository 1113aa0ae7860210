package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/node"
)

const help = `Usage: ./scripts/flash --image FILE --agent NAME (--device DEV | --output FILE) [flags]
       ./scripts/flash                               lists the disks that a card may be in

Makes a card that comes up as a working Holdfast node: it writes an image of
Raspberry Pi OS (or Debian's own for the Pi) and adds agent, sidecar and settings to
the FAT boot partition. At its first boot, which needs no network, the system there
installs them. Everything is prepared before the card is touched; what was written is
read back; the partition table comes last, so that a card that was not finished is
never taken for one that was.

  --image FILE         .img, .img.xz, .img.zst or .img.gz
  --sha256 HEX         of that file; without it, FILE.sha256 beside it
  --device DEV         the disk to overwrite, such as /dev/sdb (needs root)
  --output FILE        a file instead: for another tool, or an emulator
  --agent NAME         the agent's id: 1 to 63 of a-z, 0-9 and -; also the host name
  --yes                do not ask (for scripts)
  --dry-run            prepare and check everything, write nothing
  --keep-identity      keep the key, the enrolment and the unsent readings of the agent
                       that is on the card now. Wants e2fsprogs
  --state FILE         where they are kept until the card is verified (default
                       holdfast-NAME-state.tar.gz); if it is there from a run that was
                       cut short, it goes onto the card as it is

The way to the cloud:
  --cloud URL          cloud-api's public address, for enrolment
  --token-file FILE    enrolment token, from: cloud-api token create --agent NAME
  --identity DIR       instead of a token: folder with agent.key and enrolment.json
  --broker-url URL     the broker, such as tls://nats.example.com:4222 (NATS)
  --env-file FILE      further settings, one NAME=VALUE a line: HOLDFAST_NATS_USER and
                       others of the sidecar, EDGE_… of the agent

Sensors:
  --mqtt-user NAME     sensors log in under it; the listener is then open to the network
  --mqtt-password-file FILE
  --mqtt-listen ADDR   (default 0.0.0.0:1883 with a user, otherwise 127.0.0.1:1883)

The system:
  --hostname NAME      (default: as the agent)
  --timezone ZONE      such as Europe/Berlin
  --user NAME          who the SSH key is for (default pi)
  --ssh-key FILE       public key; logging in by password is switched off
  --wifi SSID --wifi-password-file FILE --wifi-country CC
  --watchdog           use the board's hardware watchdog
  --first-boot FORM    auto, cloud-init or firstrun (default auto: as the image wants)
  --arch ARCH          auto, arm64 or armhf (default auto; where that is not clear, both)
  --package FILE       a holdfast-edge_….deb; may be given several times (default: built
                       from this checkout)

K3s beside the agent:
  --k3s server|URL     a cluster of its own, or the server to join: https://ADDRESS:6443
  --k3s-binary FILE --k3s-sha256 HEX
  --k3s-token-file FILE                  for joining
  --k3s-images FILE    archive for a node that reaches no registry; may be given several times
  --k3s-offline-route  K3s does not start without a default route: make one

Example:
  cloud-api token create --agent greenhouse-1 > token       # where the cloud runs
  sudo ./scripts/flash --image raspios-lite.img.xz --device /dev/sdb --agent greenhouse-1 \
    --cloud https://cloud.example.com --token-file token --broker-url tls://nats.example.com:4222 \
    --mqtt-user sensors --mqtt-password-file password --ssh-key ~/.ssh/id_ed25519.pub
`

// options are the flags.
type options struct {
	image, sha256, device, output, agent string
	yes, dryRun, keep                    bool
	state                                string

	cloud, tokenFile, identity, brokerURL, envFile string
	mqttUser, mqttPasswordFile, mqttListen         string

	hostname, timezone, user, sshKey        string
	wifi, wifiPasswordFile, wifiCountry     string
	watchdog                                bool
	form, arch                              string
	packages                                []string
	k3s, k3sBinary, k3sSHA256, k3sTokenFile string
	k3sImages                               []string
	k3sOfflineRoute                         bool
}

// list reports whether nothing was asked for but which disks there are.
func (o options) list() bool { return o.image == "" && o.device == "" && o.output == "" }

func parse(args []string, out io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("flash", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() { fmt.Fprint(out, help) }
	for name, to := range map[string]*string{
		"image": &o.image, "sha256": &o.sha256, "device": &o.device, "output": &o.output, "agent": &o.agent, "state": &o.state,
		"cloud": &o.cloud, "token-file": &o.tokenFile, "identity": &o.identity, "broker-url": &o.brokerURL, "env-file": &o.envFile,
		"mqtt-user": &o.mqttUser, "mqtt-password-file": &o.mqttPasswordFile, "mqtt-listen": &o.mqttListen,
		"hostname": &o.hostname, "timezone": &o.timezone, "user": &o.user, "ssh-key": &o.sshKey,
		"wifi": &o.wifi, "wifi-password-file": &o.wifiPasswordFile, "wifi-country": &o.wifiCountry,
		"first-boot": &o.form, "arch": &o.arch,
		"k3s": &o.k3s, "k3s-binary": &o.k3sBinary, "k3s-sha256": &o.k3sSHA256, "k3s-token-file": &o.k3sTokenFile,
	} {
		fs.StringVar(to, name, "", "")
	}
	for name, to := range map[string]*bool{
		"yes": &o.yes, "dry-run": &o.dryRun, "keep-identity": &o.keep, "watchdog": &o.watchdog, "k3s-offline-route": &o.k3sOfflineRoute,
	} {
		fs.BoolVar(to, name, false, "")
	}
	for name, to := range map[string]*[]string{"package": &o.packages, "k3s-images": &o.k3sImages} {
		fs.Func(name, "", func(s string) error {
			*to = append(*to, s)
			return nil
		})
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; --help lists the flags", fs.Arg(0))
	}
	if o.list() {
		return o, nil
	}
	return o, o.validate()
}

var (
	agentName   = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	zoneName    = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
	userName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	countryName = regexp.MustCompile(`^[A-Z]{2}$`)
)

func (o options) validate() error {
	form := node.Form(o.form)
	switch {
	case o.image == "":
		return errors.New("want --image; --help explains")
	case o.device == "" && o.output == "":
		return errors.New("want --device or --output; without any flag the disks of this machine are listed")
	case o.device != "" && o.output != "":
		return errors.New("want --device or --output, not both")
	case !agentName.MatchString(o.agent):
		return fmt.Errorf("--agent %q: want 1 to 63 of a-z, 0-9 and -", o.agent)
	case form != "" && form != "auto" && form != node.CloudInit && form != node.FirstRun:
		return fmt.Errorf("--first-boot %s: want auto, cloud-init or firstrun", o.form)
	case o.arch != "" && o.arch != "auto" && o.arch != "arm64" && o.arch != "armhf":
		return fmt.Errorf("--arch %s: want auto, arm64 or armhf", o.arch)
	}
	return errors.Join(o.validateCloud(), o.validateSystem())
}

func (o options) validateCloud() error {
	if u, err := url.Parse(o.cloud); o.cloud != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		return fmt.Errorf("--cloud %s: want https://HOST", o.cloud)
	}
	switch {
	case (o.cloud == "") != (o.tokenFile == ""):
		return errors.New("--cloud and --token-file go together: the agent enrols there with it")
	case o.identity != "" && o.tokenFile != "":
		return errors.New("want --identity or --token-file, not both")
	case o.identity != "" && o.keep:
		return errors.New("want --identity or --keep-identity, not both")
	case (o.mqttUser == "") != (o.mqttPasswordFile == ""):
		return errors.New("--mqtt-user and --mqtt-password-file go together")
	case o.mqttListen != "" && !strings.HasPrefix(o.mqttListen, "127.") && o.mqttUser == "":
		return fmt.Errorf("--mqtt-listen %s is open to the network: it wants --mqtt-user", o.mqttListen)
	}
	return nil
}

func (o options) validateSystem() error {
	switch {
	case o.hostname != "" && !hostName.MatchString(o.hostname):
		return fmt.Errorf("--hostname %s: want letters, digits and - alone", o.hostname)
	case o.hostname == "" && !hostName.MatchString(o.agent):
		return fmt.Errorf("--agent %s is no host name: give --hostname too", o.agent)
	case o.timezone != "" && !zoneName.MatchString(o.timezone):
		return fmt.Errorf("--timezone %s: want a name such as Europe/Berlin", o.timezone)
	case o.user != "" && !userName.MatchString(o.user):
		return fmt.Errorf("--user %s: want a-z, 0-9, _ and -", o.user)
	case (o.wifi == "") != (o.wifiPasswordFile == ""):
		return errors.New("--wifi and --wifi-password-file go together")
	case o.wifi != "" && !countryName.MatchString(o.wifiCountry):
		return fmt.Errorf("--wifi-country %q: want two letters, such as DE: the radio stays off without", o.wifiCountry)
	case o.k3s == "" && (o.k3sBinary != "" || len(o.k3sImages) > 0):
		return errors.New("--k3s-binary and --k3s-images want --k3s server, or --k3s URL")
	}
	return nil
}
