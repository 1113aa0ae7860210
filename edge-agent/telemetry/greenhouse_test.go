package telemetry_test

import (
	"crypto/ed25519"
	"fmt"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// greenhouse makes readings as ten sensors would send them: once a second each,
// but for some milliseconds; values that wander slowly, with the noise of a
// cheap sensor in the last digit; times in nanoseconds, as the agent takes them.
type greenhouse struct {
	rng     *rand.Rand
	sensors []sensor
	boot    time.Duration
	wall    int64
}

type sensor struct {
	seq                     int
	temp, hum, press, volts float64
	next                    float64 // ms
}

func newGreenhouse(seed uint64) *greenhouse {
	g := &greenhouse{
		rng:  rand.New(rand.NewPCG(seed, seed)),
		boot: 83 * time.Hour, wall: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).UnixNano(),
	}
	for i := range 10 {
		g.sensors = append(g.sensors, sensor{
			seq: 100_000 + g.rng.IntN(1000), temp: 20 + 3*g.rng.Float64(), hum: 50 + 10*g.rng.Float64(),
			press: 1013, volts: 3.9 - g.rng.Float64()/5, next: float64(100*i) + 50*g.rng.Float64(),
		})
	}
	return g
}

// readings returns the next n records, of which the first has seq first.
func (g *greenhouse) readings(first uint64, n int) []telemetry.Record {
	recs := make([]telemetry.Record, n)
	for i := range recs {
		recs[i] = g.reading()
		recs[i].Seq = first + uint64(i)
	}
	return recs
}

func (g *greenhouse) reading() telemetry.Record {
	at := 0
	for i := range g.sensors {
		if g.sensors[i].next < g.sensors[at].next {
			at = i
		}
	}
	s := &g.sensors[at]
	sent := s.next
	s.next += 1000 + g.rng.NormFloat64()*3
	s.seq++
	s.temp += g.rng.NormFloat64() * 0.03
	s.hum += g.rng.NormFloat64() * 0.1
	s.press += g.rng.NormFloat64() * 0.02
	payload := fmt.Sprintf(`{"sensor":"greenhouse-%d","seq":%d,"temp":%.2f,"hum":%.1f,"press":%.2f,"bat":%.3f,"rssi":-%d,"ts":%d}`,
		at+1, s.seq, s.temp, s.hum, s.press, s.volts+g.rng.NormFloat64()*0.002, 60+g.rng.IntN(6), g.wall/1e6+int64(math.Round(sent)))
	arrived := sent*1e6 + 4e6 + math.Abs(g.rng.NormFloat64())*3e6 // ns: Wi-Fi
	return telemetry.Record{
		Kind: telemetry.KindReading,
		At: telemetry.Instant{
			Boot: g.boot + time.Duration(arrived),
			Wall: g.wall + int64(arrived) + 120 + int64(g.rng.NormFloat64()*40), // the clocks are read one after the other
		},
		Reading: &telemetry.Reading{Topic: fmt.Sprintf("site/north/greenhouse-%d/climate", at+1), QoS: 1, Payload: []byte(payload)},
	}
}

var (
	testKey   = ed25519.NewKeyFromSeed([]byte("a seed of thirty-two bytes......"))
	testPub   = testKey.Public().(ed25519.PublicKey)
	testEpoch = telemetry.Epoch{Ordinal: 12, ID: [8]byte{0x51, 0xd8, 0x0e, 0x7c, 0x33, 0x9a, 0xf0, 0x1b}}
)

// fullHeader is what an agent that has lived for a while sends.
func fullHeader(first, last uint64) telemetry.Header {
	return telemetry.Header{
		Agent: "greenhouse-pi-7", Epoch: testEpoch, First: first, Last: last,
		Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Open: []telemetry.OpenEpoch{
			{Epoch: testEpoch, Lowest: 1, Durable: last + 40, Trimmed: first - 1},
			{Epoch: telemetry.Epoch{Ordinal: 11, ID: [8]byte{9, 8, 7, 6, 5, 4, 3, 2}}, Lowest: 70_001, Durable: 81_234, Trimmed: 81_234},
		},
		OpenTotal: 2,
		Sent:      telemetry.Instant{Boot: 83*time.Hour + 20*time.Second, Wall: time.Date(2026, 5, 1, 12, 0, 20, 0, time.UTC).UnixNano()},
	}
}

func payloadBytes(recs []telemetry.Record) (n int) {
	for _, r := range recs {
		if r.Reading != nil {
			n += len(r.Reading.Payload)
		}
	}
	return n
}

// cpu returns how long this process has computed, collecting garbage included:
// unlike the time on the wall it says the same on a busy machine.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// Bytes on the wire, header, signature and all, against the bytes of JSON.
func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("readings=%d", n), func(b *testing.B) {
			recs := newGreenhouse(1).readings(5000, n)
			h := fullHeader(5000, 5000+uint64(n)-1)
			var size int
			b.ReportAllocs()
			from := cpu(b)
			for b.Loop() {
				f, err := telemetry.EncodeFrame(h, recs, testKey)
				if err != nil {
					b.Fatal(err)
				}
				size = len(f)
			}
			b.ReportMetric(float64(size)/float64(n), "wire-B/reading")
			b.ReportMetric(float64(payloadBytes(recs))/float64(n), "json-B/reading")
			b.ReportMetric(float64(size)/float64(payloadBytes(recs)), "wire/json")
			b.ReportMetric(float64(n)*float64(b.N)/(cpu(b)-from).Seconds(), "readings/cpu-s")
		})
	}
}

// A frame from bytes to records, signature and all.
func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("readings=%d", n), func(b *testing.B) {
			frame, err := telemetry.EncodeFrame(fullHeader(5000, 5000+uint64(n)-1), newGreenhouse(1).readings(5000, n), testKey)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			from := cpu(b)
			for b.Loop() {
				f, err := telemetry.ParseFrame(frame)
				if err != nil {
					b.Fatal(err)
				}
				if err := f.Verify(testPub); err != nil {
					b.Fatal(err)
				}
				if _, err := f.Records(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/(cpu(b)-from).Seconds(), "readings/cpu-s")
		})
	}
}
