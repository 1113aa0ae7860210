package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/config"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
)

func (a *Agent) openIntake() (err error) {
	c := a.config.Intake
	metrics := intake.NewMetrics(a.metrics)
	if c.MQTT.Broker.URL != "" {
		o, err := brokerOptions(c)
		if err != nil {
			return err
		}
		o.Store, o.Logger, o.Metrics = store{a.outbox}, a.log, metrics
		a.broker = intake.NewSubscriber(o)
	}
	if c.MQTT.Listen == "" {
		return nil
	}
	o, err := listenOptions(c)
	if err != nil {
		return err
	}
	o.Store, o.Logger, o.Metrics = store{a.outbox}, a.log, metrics
	if a.server, err = intake.Listen(o); err != nil {
		return err
	}
	a.onClose(a.server.Close)
	return nil
}

// listenOptions reads the files that the settings name.
func listenOptions(c config.Intake) (o intake.ServerOptions, err error) {
	m := c.MQTT
	o = intake.ServerOptions{Address: m.Listen, MaxPayload: int(c.MaxPayload), MaxClients: m.MaxClients}
	if m.UsersFile != "" {
		if o.Users, err = intake.LoadUsers(m.UsersFile); err != nil {
			return o, fmt.Errorf("read intake.mqtt.users_file: %w", err)
		}
	}
	if m.TLS.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(m.TLS.CertFile, m.TLS.KeyFile)
		if err != nil {
			return o, fmt.Errorf("read intake.mqtt.tls: %w", err)
		}
		o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	return o, nil
}

func brokerOptions(c config.Intake) (o intake.SubscriberOptions, err error) {
	b := c.MQTT.Broker
	o = intake.SubscriberOptions{
		URL: b.URL, ClientID: b.ClientID, Filters: b.Filters, Username: b.Username,
		MaxPayload: int(c.MaxPayload), Retained: c.Retained == "store",
	}
	if b.PasswordFile != "" {
		if o.Password, err = readSecret(b.PasswordFile); err != nil {
			return o, fmt.Errorf("read intake.mqtt.broker.password_file: %w", err)
		}
	}
	if o.TLS, err = brokerTLS(b.TLS); err != nil {
		return o, fmt.Errorf("read intake.mqtt.broker.tls: %w", err)
	}
	return o, nil
}

func brokerTLS(c config.ClientTLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, err
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// readSecret reads a small file without the end of its last line.
func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// Check reads what the settings name, and changes nothing. It returns every
// fault at once.
func Check(c config.Config) error {
	_, listenErr := listenOptions(c.Intake)
	_, brokerErr := brokerOptions(c.Intake)
	errs := []error{listenErr, brokerErr, checkFolder(c.Data), checkFolder(c.Outbox.Dir)}
	if path := c.Uplink.DaprTokenFile; path != "" {
		_, err := readSecret(path)
		errs = append(errs, err)
	}
	if _, err := Enrolled(c.Data); !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkFolder finds what is no folder; run makes one that is not there.
func checkFolder(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", path)
	}
	return nil
}
