package intake_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
)

// certificate is one for 127.0.0.1 that signs itself, and a pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}, pool
}

// A listener with a certificate takes messages over TLS and nothing without it.
func TestServerOverTLS(t *testing.T) {
	pair, pool := certificate(t)
	s := &store{}
	server := serve(t, s, func(o *intake.ServerOptions) { o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}} })
	raw := dial(t, server)
	c := &client{Conn: tls.Client(raw.Conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}), t: t, version: 4}
	c.in = bufio.NewReader(c.Conn)
	c.send(connectPacket(4, "a", 2, 60, nil))
	c.expect(0x20, 0, 0)
	c.publish(2, 1, "a", []byte("x"))
	c.expect(0x40, 0, 1)

	plain := dial(t, server)
	plain.send(connectPacket(4, "a", 2, 60, nil))
	if first, _, err := plain.receive(10 * time.Second); err == nil && first == 0x20 {
		t.Error("connected without TLS")
	}
}

// login lets one user in.
type login struct {
	mochi.HookBase
	user, password string
}

func (l *login) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (l *login) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	return string(pk.Connect.Username) == l.user && string(pk.Connect.Password) == l.password
}

func (l *login) OnACLCheck(_ *mochi.Client, topic string, write bool) bool {
	return write || topic != "forbidden"
}

// A broker that asks for TLS and a password gets both; with a wrong one, or with
// a certificate that nobody vouches for, the agent says why it is not connected.
func TestSubscriberOverTLS(t *testing.T) {
	pair, pool := certificate(t)
	broker := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(broker.AddHook(&login{user: "pi", password: "pw"}, nil), broker.AddListener(listeners.NewNet("l", l)), broker.Serve())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	f := func(change func(*intake.SubscriberOptions)) func() intake.SubscriberState {
		sub, _ := subscribe(t, "mqtts://"+l.Addr().String(), &store{}, func(o *intake.SubscriberOptions) {
			o.Username, o.Password, o.TLS = "pi", "pw", &tls.Config{RootCAs: pool}
			change(o)
		})
		return sub.State
	}
	says := func(state func() intake.SubscriberState, want string) {
		t.Helper()
		eventually(t, func() bool { return strings.Contains(state().Error, want) })
	}
	good := f(func(*intake.SubscriberOptions) {})
	eventually(t, func() bool { return good().Connected })
	says(f(func(o *intake.SubscriberOptions) { o.ClientID, o.Password = "b", "wrong" }), "not Authorized")
	says(f(func(o *intake.SubscriberOptions) { o.ClientID, o.TLS = "c", nil }), "certificate")
	says(f(func(o *intake.SubscriberOptions) { o.ClientID, o.Filters = "d", []string{"forbidden"} }), "refuses a filter")
}
