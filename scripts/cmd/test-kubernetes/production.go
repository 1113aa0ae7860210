package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
)

// production makes what the production overlay needs and has no business in git: certificates, keys, accounts and passwords.
func (t *test) production(ctx context.Context) ([]any, error) {
	tls, err := certificates(natsHost, "*.nats-pods.holdfast.svc")
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	keys, err := t.signingKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("make signing keys: %w", err)
	}
	dsn, database, err := databaseService(t.dsn)
	if err != nil {
		return nil, err
	}
	cloudPassword, edgePassword := rand.Text(), rand.Text()
	login := func(user, password string) map[string]string {
		return map[string]string{
			"HOLDFAST_NATS_URL": "tls://" + natsHost + ":4222", "HOLDFAST_NATS_CA": tls["ca.crt"],
			"HOLDFAST_NATS_USER": user, "HOLDFAST_NATS_PASSWORD": password,
		}
	}
	t.nats = login(t.agent, edgePassword)
	t.nats["HOLDFAST_NATS_INBOX"] = "_INBOX_" + t.agent
	of := func(name string, values map[string]string) any { return secret(cloudNamespace, name, values) }
	return append(database,
		of("holdfast-nats", login("cloud", cloudPassword)),
		of("holdfast-nats-tls", tls),
		of("holdfast-nats-accounts", map[string]string{"accounts.conf": fmt.Sprintf(accounts, cloudPassword, t.agent, edgePassword)}),
		of("holdfast-keys", keys),
		of("holdfast-postgres", map[string]string{"dsn": dsn}),
		of("holdfast-dapr-app", map[string]string{"token": rand.Text()}),
	), nil
}

// databaseService puts a database outside of the cluster behind a Service without a selector, as one would do with one's own, and returns the
// DSN by that name. A host that is a name stays as it is.
func databaseService(dsn string) (inside string, objects []any, err error) {
	u, err := url.Parse(dsn)
	if err != nil || u.Host == "" {
		return "", nil, errors.New("--production: want postgres://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	ip := net.ParseIP(u.Hostname())
	if ip == nil {
		return dsn, nil, nil
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), "5432"))
	if err != nil {
		return "", nil, fmt.Errorf("--production: port: %w", err)
	}
	family := "IPv4"
	if ip.To4() == nil {
		family = "IPv6"
	}
	u.Host = "postgres." + cloudNamespace + ".svc:5432"
	meta := func(name string) object {
		return object{"namespace": cloudNamespace, "name": name, "labels": object{"kubernetes.io/service-name": "postgres"}}
	}
	return u.String(), []any{
		object{
			"apiVersion": "v1", "kind": "Service", "metadata": meta("postgres"),
			"spec": object{"ports": []any{object{"port": 5432, "targetPort": port}}},
		},
		object{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta("postgres-1"), "addressType": family,
			"ports": []any{object{"port": port}}, "endpoints": []any{object{"addresses": []string{ip.String()}}},
		},
	}, nil
}

// accounts gives the edge no more than dapr-components/nats/README.md says that it needs.
const accounts = `authorization {
  users: [
    {user: cloud, password: "%[1]s"}
    {user: "%[2]s", password: "%[3]s", permissions: {
      publish: {allow: ["up.live", "up.backlog",
        "$JS.API.CONSUMER.INFO.holdfast-down.edge-agent_down_%[2]s",
        "$JS.API.CONSUMER.CREATE.holdfast-down.edge-agent_down_%[2]s.down.%[2]s",
        "$JS.ACK.holdfast-down.edge-agent_down_%[2]s.>"]}
      subscribe: {allow: ["_INBOX_%[2]s.>"]}
    }}
  ]
}
`

// signingKeys lets the cloud-api of this checkout make them as it does at a first start: with the first token it is asked for.
func (t *test) signingKeys(ctx context.Context) (map[string]string, error) {
	b := build.Builder{Root: t.root, Out: t.screen}
	paths, err := b.Build(ctx, build.CloudAPI)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(t.work, "keys")
	cmd := exec.CommandContext(ctx, paths[build.CloudAPI.Name], "token", "create", "--agent", t.agent)
	cmd.Env = append(os.Environ(), "CLOUD_KEYS__DIR="+dir, "CLOUD_STORE__SQLITE__PATH="+filepath.Join(t.work, "keys.db"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cloud-api token create: %w: %s", err, out)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.key"))
	keys := make(map[string]string, len(names))
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		keys[filepath.Base(name)] = string(b)
	}
	return keys, err
}

// certificates makes an authority and, signed by it, one certificate that servers show to clients and to each other.
func certificates(hosts ...string) (map[string]string, error) {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, err
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return map[string]string{"ca.crt": text("CERTIFICATE", caDER), "tls.crt": text("CERTIFICATE", leafDER), "tls.key": text("PRIVATE KEY", keyDER)}, nil
}
