// Package sensors plays a number of devices that publish over real MQTT, each
// over a connection of its own and on a schedule of its own: a sensor measures
// when it is time, not when the one before was acknowledged. What every message
// must contain can be computed again from its number, so a copy read back later
// is compared byte for byte with nothing kept but bits.
package sensors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Shape says what the messages of a fleet look like.
type Shape struct {
	Prefix string // of the topics: PREFIX/s-007
	Seed   uint64 // two fleets of different seeds never send equal payloads
	Size   int    // payloads are padded to this many bytes; 0: as short as they come
	Plain  bool   // JSON of about 118 bytes as devices send it, which compresses as such does; Size is not heeded
}

// Topic returns the topic of a sensor.
func (s Shape) Topic(sensor int) string { return fmt.Sprintf("%s/s-%03d", s.Prefix, sensor) }

// Payload returns the message that a sensor publishes under a number.
func (s Shape) Payload(sensor int, number uint64) []byte {
	noise := mix(s.Seed ^ mix(uint64(sensor)<<40^number))
	if s.Plain {
		return plain(sensor, number, noise)
	}
	// A slow wave with a little noise looks like a temperature on a page.
	value := 20 + 5*math.Sin(float64(number)/200+float64(sensor)) + float64(noise%1000)/2000
	b := make([]byte, 0, max(s.Size, 96))
	b = fmt.Appendf(b, `{"sensor":"s-%03d","number":%d,"value":%.3f,"check":"%016x"`, sensor, number, value, noise)
	if pad := s.Size - len(b) - len(`,"pad":""}`); pad >= 0 {
		b = append(b, `,"pad":"`...)
		b = appendNoise(b, noise, pad)
		b = append(b, '"')
	}
	return append(b, '}')
}

// plain is a reading of a device that measures slow things: a tenth of a degree
// and of a per cent of noise on waves, and a battery that runs down.
func plain(sensor int, number, noise uint64) []byte {
	phase := float64(number)/300 + float64(sensor)
	return fmt.Appendf(nil, `{"device":"bay-%02d","number":%d,"temperature":%.2f,"humidity":%.1f,"battery":%.3f,"status":"nominal","fw":"1.4.2"}`,
		sensor, number, 20+5*math.Sin(phase)+float64(noise%10)/100, 50+10*math.Cos(phase)+float64(noise>>8%2)/10, 3.7-float64(number%100_000)/1e5)
}

// Recognise returns the sensor and the number that a message claims to have.
// ours is false when the topic is none of this fleet's; valid is false when the
// payload is not, to the byte, what that sensor published under that number.
func (s Shape) Recognise(topic string, payload []byte) (sensor int, number uint64, ours, valid bool) {
	name, ours := strings.CutPrefix(topic, s.Prefix+"/s-")
	if !ours {
		return 0, 0, false, false
	}
	sensor, err := strconv.Atoi(name)
	if err != nil || s.Topic(sensor) != topic {
		return 0, 0, true, false
	}
	var claim struct {
		Number *uint64 `json:"number"`
	}
	if json.Unmarshal(payload, &claim) != nil || claim.Number == nil {
		return sensor, 0, true, false
	}
	return sensor, *claim.Number, true, bytes.Equal(payload, s.Payload(sensor, *claim.Number))
}

// appendNoise appends hexadecimal digits: half as large when compressed, where a
// run of one character would all but vanish and flatter every figure.
func appendNoise(b []byte, seed uint64, length int) []byte {
	end := len(b) + length
	for len(b) < end {
		seed = mix(seed)
		b = fmt.Appendf(b, "%016x", seed)
	}
	return b[:end]
}

// mix is the finaliser of SplitMix64: equal inputs alone give equal outputs.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
