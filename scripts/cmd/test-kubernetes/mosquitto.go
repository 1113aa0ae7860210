package main

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
)

// mosquittoRounds is what mosquitto_passwd of version 2 uses.
const mosquittoRounds = 101

// passwordLine is a line of Mosquitto's password file.
func passwordLine(user, password string) (string, error) {
	salt := make([]byte, 12)
	_, _ = rand.Read(salt) // never fails
	hash, err := pbkdf2.Key(sha512.New, password, salt, mosquittoRounds, sha512.Size)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s:$7$%d$%s$%s\n", user, mosquittoRounds, b64(salt), b64(hash)), nil
}

// mosquittoSecrets are what components/mosquitto asks for: its users, and the agent's own password.
func (t *test) mosquittoSecrets() ([]any, error) {
	own := rand.Text()
	var lines string
	for user, password := range map[string]string{mqttUser: t.password, "edge-agent": own} {
		line, err := passwordLine(user, password)
		if err != nil {
			return nil, err
		}
		lines += line
	}
	return []any{
		secret(edgeNamespace, "holdfast-mosquitto", map[string]string{"passwd": lines}),
		secret(edgeNamespace, "holdfast-mqtt-broker", map[string]string{"password": own}),
	}, nil
}
