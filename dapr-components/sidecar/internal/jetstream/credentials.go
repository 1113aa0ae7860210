package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// connectOptions turns the credentials into options, and finds now what the client library would only find when it connects.
func (m metadata) connectOptions() ([]nats.Option, error) {
	var opts []nats.Option
	switch {
	case m.Jwt != "":
		if _, err := nkeys.FromSeed([]byte(m.SeedKey)); err != nil {
			return nil, errors.New("seedKey is not an nkeys seed") // the library's error is not quoted: this is a secret
		}
		opts = append(opts, nats.UserJWTAndSeed(m.Jwt, m.SeedKey))
	case m.Token != "":
		opts = append(opts, nats.Token(m.Token))
	case m.User != "":
		opts = append(opts, nats.UserInfo(m.User, m.Password))
	}
	conf, err := m.tlsConfig()
	if err != nil {
		return nil, err
	}
	if conf != nil {
		opts = append(opts, nats.Secure(conf))
	}
	return opts, nil
}

// tlsConfig is nil when nothing about TLS is set; a tls:// URL then uses the system's authorities.
func (m metadata) tlsConfig() (*tls.Config, error) {
	if m.TLSClientCert == "" && m.TLSCACert == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if m.TLSClientCert != "" {
		cert, err := fileOrText("tls_client_cert", m.TLSClientCert)
		if err != nil {
			return nil, err
		}
		key, err := fileOrText("tls_client_key", m.TLSClientKey)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("tls_client_cert and tls_client_key: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	if m.TLSCACert != "" {
		pem, err := fileOrText("tls_ca_cert", m.TLSCACert)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("tls_ca_cert holds no certificate in PEM")
		}
	}
	return conf, nil
}

// fileOrText takes PEM text as it is and anything else as the name of a file.
func fileOrText(name, value string) ([]byte, error) {
	if strings.HasPrefix(value, "-----BEGIN ") {
		return []byte(value), nil
	}
	b, err := os.ReadFile(value)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}
