package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/holdfast-edge/holdfast/scripts/internal/node"
)

// settings reads the files that the flags name, so that a wrong one is told of
// before anything else happens.
func (o options) settings(root string) (node.Settings, error) {
	s := node.Settings{
		Agent: o.agent, Hostname: o.hostname, TimeZone: o.timezone, User: o.user, Watchdog: o.watchdog,
		Files: map[string][]byte{}, Data: map[string][]byte{}, Card: strings.ToLower(rand.Text()[:12]),
	}
	set := func(name, value string) {
		s.Environment = append(s.Environment, node.Variable{Name: name, Value: value})
	}
	set("EDGE_AGENT", o.agent)
	if o.brokerURL != "" {
		set("HOLDFAST_NATS_URL", o.brokerURL)
	}
	for _, step := range []func(*node.Settings, func(name, value string)) error{o.toCloud, o.toSensors, o.toSystem} {
		if err := step(&s, set); err != nil {
			return s, err
		}
	}
	return s, o.withK3s(&s, root)
}

func (o options) toCloud(s *node.Settings, set func(name, value string)) error {
	if o.tokenFile != "" {
		token, err := secret(o.tokenFile)
		if err != nil {
			return err
		}
		if strings.Count(token, ".") != 2 {
			return fmt.Errorf("%s holds no enrolment token: want the one line that cloud-api token create printed", o.tokenFile)
		}
		s.Files["enrol-token"] = []byte(token + "\n")
		set("EDGE_ENROL__URL", o.cloud)
		set("EDGE_ENROL__TOKEN_FILE", "/etc/holdfast/enrol-token")
	}
	if o.identity != "" {
		for _, name := range []string{"agent.key", "enrolment.json"} {
			text, err := os.ReadFile(filepath.Join(o.identity, name))
			if err != nil {
				return fmt.Errorf("--identity: %w", err)
			}
			s.Data[name] = text
		}
	}
	if o.envFile == "" {
		return nil
	}
	text, err := os.ReadFile(o.envFile)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(name, " \t\"'") {
			return fmt.Errorf("--env-file %s: want lines NAME=VALUE", o.envFile)
		}
		set(name, value)
	}
	return nil
}

func (o options) toSensors(s *node.Settings, set func(name, value string)) error {
	listen := o.mqttListen
	if o.mqttUser != "" {
		password, err := secret(o.mqttPasswordFile)
		if err != nil {
			return err
		}
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
		if err != nil {
			return fmt.Errorf("--mqtt-password-file: %w", err)
		}
		if strings.ContainsAny(o.mqttUser, ":\n ") {
			return fmt.Errorf("--mqtt-user %q: want no colon and no space", o.mqttUser)
		}
		s.Files["users"] = fmt.Appendf(nil, "%s:%s\n", o.mqttUser, hash)
		set("EDGE_INTAKE__MQTT__USERS_FILE", "/etc/holdfast/users")
		if listen == "" {
			listen = "0.0.0.0:1883"
		}
	}
	if listen != "" {
		set("EDGE_INTAKE__MQTT__LISTEN", listen)
	}
	return nil
}

func (o options) toSystem(s *node.Settings, _ func(name, value string)) error {
	if o.sshKey != "" {
		keys, err := os.ReadFile(o.sshKey)
		if err != nil {
			return err
		}
		if bytes.Contains(keys, []byte("PRIVATE KEY")) {
			return fmt.Errorf("--ssh-key %s is the private key: give the .pub beside it", o.sshKey)
		}
		s.Keys = string(keys)
	}
	if o.wifi != "" {
		password, err := secret(o.wifiPasswordFile)
		if err != nil {
			return err
		}
		if len(password) < 8 || len(password) > 63 {
			return errors.New("--wifi-password-file: want 8 to 63 characters, as WPA does")
		}
		s.WiFi = node.WiFi{SSID: o.wifi, Password: password, Country: o.wifiCountry}
	}
	return nil
}

func (o options) withK3s(s *node.Settings, root string) error {
	if o.k3s == "" {
		return nil
	}
	s.K3s = &node.K3s{
		Root: root, Binary: o.k3sBinary, SHA256: o.k3sSHA256, TokenFile: o.k3sTokenFile, Images: o.k3sImages, OfflineRoute: o.k3sOfflineRoute,
	}
	if o.k3s != "server" {
		s.K3s.Server = o.k3s
	}
	return s.K3s.Validate()
}

// secret returns a file's text without the line's end.
func secret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if s := strings.TrimRight(string(text), "\r\n"); s != "" && !strings.Contains(s, "\n") {
		return s, nil
	}
	return "", fmt.Errorf("%s: want one line", path)
}
