package store

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Filters match as MQTT 3.1.1 section 4.7 says.
func TestMatchTopic(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"#", "a/b/c", true},
		{"#", "", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+", "finance", true},
		{"+", "", true},
		{"#", "$SYS/x", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/x", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/b", "a/b", true},
		{"a/b", "a/B", false},
		{"a/b", "a/b/", false},
		{"a/b/", "a/b", false},
		{"a//b", "a//b", true},
		{"a/+/b", "a//b", true},
		{"a/+/#", "a", false},
		{"a/+/#", "a/x", true},
		{"", "", true},
		{"a", "", false},
	} {
		if got := MatchTopic(c.filter, c.topic); got != c.want {
			t.Errorf("%q matches %q: %t", c.filter, c.topic, got)
		}
	}
}

// A wildcard stands for a whole level, and # for the last one only.
func TestValidFilter(t *testing.T) {
	for filter, want := range map[string]bool{
		"#": true, "+": true, "a/#": true, "a/+/b": true, "/": true, "a": true, "+/+/#": true, "$SYS/#": true,
		"": false, "a#": false, "#/a": false, "a/#/b": false, "a+": false, "a/+b/c": false, strings.Repeat("x", telemetry.MaxTopic+1): false,
	} {
		if got := ValidFilter(filter); got != want {
			t.Errorf("%.20q: %t", filter, got)
		}
	}
}

// What matches a topic is never less than the topic's own filter.
func FuzzMatchTopic(f *testing.F) {
	f.Add("a/b", "a/+")
	f.Add("", "#")
	f.Fuzz(func(t *testing.T, topic, filter string) {
		if strings.ContainsAny(topic, "+#") {
			return
		}
		if !MatchTopic(topic, topic) {
			t.Errorf("%q does not match itself", topic)
		}
		if !strings.HasPrefix(topic, "$") && !MatchTopic("#", topic) {
			t.Errorf("# does not match %q", topic)
		}
		if up := strings.LastIndexByte(topic, '/'); up >= 0 && !strings.HasPrefix(topic, "$") && !MatchTopic(topic[:up]+"/+", topic) {
			t.Errorf("%q/+ does not match %q", topic[:up], topic)
		}
		MatchTopic(filter, topic) // must not panic
	})
}

// A cursor survives its way through a URL; anything else is refused.
func TestCursor(t *testing.T) {
	e := telemetry.Epoch{Ordinal: 7, ID: [8]byte{1, 2}}
	for _, c := range []Cursor{{"a", e.String(), 99}, {Agent: "a"}} {
		got, epoch, err := ParseCursor(c.String())
		if err != nil || got != c || c.Epoch != "" && epoch != e || strings.ContainsAny(c.String(), "+/= &?") {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
	for _, s := range []string{"!", "e30x", "bm90IGpzb24", Cursor{Epoch: "x"}.String(), Cursor{Epoch: "01-0000000000000000"}.String()} {
		if _, _, err := ParseCursor(s); !errors.Is(err, ErrCursor) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// QoS, DUP and RETAIN fit into one number and come out again.
func TestFlags(t *testing.T) {
	for _, r := range []telemetry.Reading{{}, {QoS: 1}, {QoS: 2, Dup: true}, {Retained: true}, {QoS: 1, Dup: true, Retained: true}} {
		var out Reading
		out.SetFlags(Flags(&r))
		if out.QoS != r.QoS || out.Dup != r.Dup || out.Retained != r.Retained {
			t.Errorf("%+v: %+v", r, out)
		}
	}
}

// A token is good for whom, when and as often as it says.
func TestTokenCheck(t *testing.T) {
	now, never := time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC), time.Time{}
	for name, c := range map[string]struct {
		token   Token
		agent   string
		again   bool
		ok      bool
		revoked time.Time
	}{
		"fresh":                             {Token{Uses: 1, Expires: now}, "a", false, true, never},
		"expired":                           {Token{Uses: 1, Expires: now.Add(-1)}, "a", false, false, never},
		"expired, again":                    {Token{Uses: 1, Used: 1, Expires: now.Add(-1)}, "a", true, false, never},
		"used up":                           {Token{Uses: 1, Used: 1, Expires: now}, "a", false, false, never},
		"used up, again":                    {Token{Uses: 1, Used: 1, Expires: now}, "a", true, true, never},
		"for another agent":                 {Token{Uses: 1, Agent: "b", Expires: now}, "a", false, false, never},
		"for this agent":                    {Token{Uses: 1, Agent: "a", Expires: now}, "a", false, true, never},
		"prefix":                            {Token{Uses: 5, Used: 4, Prefix: "pi-", Expires: now}, "pi-1", false, true, never},
		"not of the prefix":                 {Token{Uses: 5, Prefix: "pi-", Expires: now}, "desk", false, false, never},
		"no use at all left":                {Token{Uses: 0, Expires: now}, "a", false, false, never},
		"made before the revocation":        {Token{Uses: 1, Created: now.Add(-2), Expires: now}, "a", false, false, now.Add(-1)},
		"made before the revocation, again": {Token{Uses: 1, Used: 1, Created: now.Add(-2), Expires: now}, "a", true, false, now.Add(-1)},
		"made after the revocation":         {Token{Uses: 1, Created: now, Expires: now}, "a", false, true, now.Add(-1)},
	} {
		if err := c.token.Check(c.agent, c.again, c.revoked, now); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
