package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A fingerprint is the lower-case base32 of the key's SHA-256, as a person can
// check with openssl and base32.
func TestFingerprints(t *testing.T) {
	// head -c32 /dev/zero | sha256sum | xxd -r -p | base32 | tr A-Z a-z
	if got, want := telemetry.Fingerprint(make([]byte, 32)), "mzuhvlpymk6xo3epygfy5h4oeaejofefn3rdhm4qfjmr2dk7fesq"; got != want {
		t.Errorf("fingerprint %q, want %q", got, want)
	}
}

// A token comes back from its text, in which nothing else may be.
func TestTokensRoundTrip(t *testing.T) {
	tok := telemetry.NewToken(pub(rootKey))
	if got, err := telemetry.ParseToken(tok.String()); err != nil || got != tok {
		t.Errorf("got %#v, want %#v (%v)", got, tok, err)
	}
	if tok.Fingerprint != telemetry.Fingerprint(pub(rootKey)) || telemetry.NewToken(pub(rootKey)) == tok {
		t.Errorf("token %#v", tok)
	}
	for _, text := range []string{
		"", "..", tok.ID, tok.ID + "." + tok.Secret, "." + tok.Secret + "." + tok.Fingerprint, tok.ID + ".short." + tok.Fingerprint,
		tok.String() + "\n", " " + tok.String(), tok.String() + "a", tok.String() + ".", strings.ToUpper(tok.String()),
		strings.Repeat("a", telemetry.MaxToken+1),
	} {
		_, err := telemetry.ParseToken(text)
		if !errors.Is(err, telemetry.ErrToken) {
			t.Errorf("%q: %v, want ErrToken", text, err)
		}
		if len(text) > 16 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

// A token that is logged or printed shows its id alone, also as a part of
// something else and by way of its address; only String gives it away.
func TestTokensAreNotLogged(t *testing.T) {
	tok := telemetry.NewToken(pub(rootKey))
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{tok, &tok, []telemetry.Token{tok}, struct{ T telemetry.Token }{tok}, fmt.Errorf("enrol with %v", tok)} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("enrolled", "token", tok)
	slog.New(slog.NewTextHandler(&out, nil)).Info("enrolled", "token", tok)
	if s := out.String(); strings.Contains(s, tok.Secret) || !strings.Contains(s, tok.ID) {
		t.Errorf("logged %s", s)
	}
}

// enrolment returns a token, a request made with it and its answer, all by way
// of their JSON.
func enrolment(t *testing.T) (telemetry.Token, telemetry.EnrolRequest, telemetry.EnrolResponse) {
	t.Helper()
	tok := telemetry.NewToken(pub(rootKey))
	made, err := telemetry.NewEnrolRequest(tok, "pi-1", testKey)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(tok.Secret)) {
		t.Fatalf("the secret travels: %s", b)
	}
	req, err := telemetry.ParseEnrolRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := telemetry.NewEnrolResponse("cloud", req, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(answer); err != nil {
		t.Fatal(err)
	}
	resp, err := telemetry.ParseEnrolResponse(b)
	if err != nil {
		t.Fatal(err)
	}
	return tok, req, resp
}

// An enrolment proves the device to the cloud and the cloud to the device, and
// the secret is not in it.
func TestEnrolment(t *testing.T) {
	tok, req, resp := enrolment(t)
	if err := req.Verify(tok.SecretHash()); err != nil {
		t.Error(err)
	}
	root, err := resp.Verify(tok, req)
	if err != nil || !root.Equal(pub(rootKey)) {
		t.Errorf("root %x (%v)", root, err)
	}
}

// A request counts only with the right secret and untouched: nobody can put
// another name or key into it.
func TestEnrolRequestsAreProven(t *testing.T) {
	tok, good, _ := enrolment(t)
	for name, change := range map[string]func(*telemetry.EnrolRequest){
		"token":      func(r *telemetry.EnrolRequest) { r.TokenID = "other" },
		"agent":      func(r *telemetry.EnrolRequest) { r.Agent = "pi-2" },
		"bad agent":  func(r *telemetry.EnrolRequest) { r.Agent = "Pi" },
		"key":        func(r *telemetry.EnrolRequest) { r.PublicKey = pub(rootKey) },
		"short key":  func(r *telemetry.EnrolRequest) { r.PublicKey = r.PublicKey[:31] },
		"nonce":      func(r *telemetry.EnrolRequest) { r.Nonce = make([]byte, 16) },
		"no nonce":   func(r *telemetry.EnrolRequest) { r.Nonce = nil },
		"MAC":        func(r *telemetry.EnrolRequest) { r.MAC = make([]byte, 32) },
		"no MAC":     func(r *telemetry.EnrolRequest) { r.MAC = nil },
		"signature":  func(r *telemetry.EnrolRequest) { r.Signature = make([]byte, 64) },
		"unsigned":   func(r *telemetry.EnrolRequest) { r.Signature = nil },
		"no token":   func(r *telemetry.EnrolRequest) { r.TokenID = "" },
		"long token": func(r *telemetry.EnrolRequest) { r.TokenID = strings.Repeat("a", 999) },
	} {
		r := good
		change(&r)
		if err := r.Verify(tok.SecretHash()); !errors.Is(err, telemetry.ErrEnrol) {
			t.Errorf("%s changed: %v, want ErrEnrol", name, err)
		}
	}
	if err := good.Verify([32]byte{}); !errors.Is(err, telemetry.ErrEnrol) {
		t.Errorf("another secret: %v", err)
	}
}

// A response counts only when it answers this request and comes from the cloud
// that the token names.
func TestEnrolResponsesAreProven(t *testing.T) {
	tok, req, good := enrolment(t)
	impostor, err := telemetry.NewEnrolResponse("cloud", req, keyOf("impostor"))
	if err != nil {
		t.Fatal(err)
	}
	otherTok, otherReq, _ := enrolment(t)
	for name, change := range map[string]func(*telemetry.EnrolResponse){
		"cloud":       func(r *telemetry.EnrolResponse) { r.Cloud = "other" },
		"no cloud":    func(r *telemetry.EnrolResponse) { r.Cloud = "" },
		"agent":       func(r *telemetry.EnrolResponse) { r.Agent = "pi-2" },
		"nonce":       func(r *telemetry.EnrolResponse) { r.Nonce = make([]byte, 16) },
		"root":        func(r *telemetry.EnrolResponse) { r.Root = pub(newRootKey) },
		"no root":     func(r *telemetry.EnrolResponse) { r.Root = nil },
		"unsigned":    func(r *telemetry.EnrolResponse) { r.Signature = nil },
		"an impostor": func(r *telemetry.EnrolResponse) { *r = impostor },
	} {
		r := good
		change(&r)
		if _, err := r.Verify(tok, req); !errors.Is(err, telemetry.ErrEnrol) {
			t.Errorf("%s changed: %v, want ErrEnrol", name, err)
		}
	}
	if _, err := good.Verify(otherTok, otherReq); !errors.Is(err, telemetry.ErrEnrol) {
		t.Errorf("another request: %v", err)
	}
}

// What is no enrolment, or too long for one, is refused.
func TestParseEnrolRefuses(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", "null", `{"agent":7}`, "{} {}", strings.Repeat(" ", telemetry.MaxEnrol) + "{}"} {
		if _, err := telemetry.ParseEnrolRequest([]byte(text)); !errors.Is(err, telemetry.ErrEnrol) {
			t.Errorf("request %.20q: %v", text, err)
		}
		if _, err := telemetry.ParseEnrolResponse([]byte(text)); !errors.Is(err, telemetry.ErrEnrol) {
			t.Errorf("response %.20q: %v", text, err)
		}
	}
}
