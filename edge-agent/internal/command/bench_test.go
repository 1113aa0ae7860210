package command_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	benchRate    = 10_000 // messages a second
	benchClients = 4
	benchPayload = 200 // bytes
)

// BenchmarkAgent runs the agent as a process of its own, with nothing behind it,
// sends it 10 000 messages of 200 bytes a second at QoS 1 over 4 connections, and
// reports what one costs in processor time and how much memory the agent took.
// Wall time says nothing here but whether it kept up.
func BenchmarkAgent(b *testing.B) {
	dir := b.TempDir()
	config := filepath.Join(dir, "edge-agent.yaml")
	if err := os.WriteFile(config, []byte("agent: bench\ndata: "+dir+"/data\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	p := launch(b, config, freeAddress(b), freeAddress(b))
	conns := make([]net.Conn, benchClients)
	for i := range conns {
		conns[i] = mqttConnect(b, p.mqtt, fmt.Sprint("sensor-", i))
	}
	stop := make(chan struct{})
	peak := make(chan int)
	go func() { peak <- watch(p.Process.Pid, stop) }()
	before := cpuTime(b, p.Process.Pid)
	b.ResetTimer()
	var group sync.WaitGroup
	for _, c := range conns {
		n := b.N/benchClients + 1
		group.Go(func() { pace(b, c, n) })
		group.Go(func() {
			if _, err := io.CopyN(io.Discard, c, int64(4*n)); err != nil { // a PUBACK has 4 bytes
				b.Error(err)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	close(stop)
	b.ReportMetric(float64((cpuTime(b, p.Process.Pid)-before).Microseconds())/float64(b.N), "µs-cpu/message")
	b.ReportMetric(float64(<-peak)/1e3, "RssAnon-MB")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

func mqttConnect(b *testing.B, address, id string) net.Conn {
	b.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	body := append([]byte("\x00\x04MQTT\x04\x02\x00\x3c\x00"), byte(len(id)))
	body = append(body, id...)
	if _, err := c.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c, 4); err != nil { // CONNACK
		b.Fatal(err)
	}
	return c
}

// pace writes n messages at its share of the rate.
func pace(b *testing.B, c net.Conn, n int) {
	out := bufio.NewWriter(c)
	start := time.Now()
	for i := 0; i < n; {
		time.Sleep(5 * time.Millisecond)
		for due := int(time.Since(start).Seconds() * benchRate / benchClients); i < min(due, n); i++ {
			const topic = "site/line/sensor"
			body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
			body = append(body, topic...)
			body = binary.BigEndian.AppendUint16(body, uint16(i%65535+1))
			body = append(body, fmt.Sprintf("%-*d", benchPayload, i)...)
			_, _ = out.Write(binary.AppendUvarint([]byte{0x32}, uint64(len(body)))) // Flush tells
			_, _ = out.Write(body)
		}
		if err := out.Flush(); err != nil {
			b.Error(err)
			return
		}
	}
}

// watch returns the most anonymous memory, in kB, that the process had.
func watch(pid int, stop <-chan struct{}) (peak int) {
	for {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // gone: keeps what it was
		if _, rest, ok := strings.Cut(string(text), "RssAnon:"); ok {
			if n, err := strconv.Atoi(strings.Fields(rest)[0]); err == nil {
				peak = max(peak, n)
			}
		}
		select {
		case <-stop:
			return peak
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cpuTime returns the user and system time that the process took, of which Linux
// counts hundredths of a second.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
