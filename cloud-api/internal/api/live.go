package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/feed"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

const (
	livePath = "/v1/live"
	// liveTime is how long one stream lives; the client comes back by itself and
	// misses nothing.
	liveTime = time.Hour
	// beat is how often a quiet stream says something, so that one that nobody
	// reads any more is noticed.
	beat = 15 * time.Second
	// stall is how long a write to a client may take.
	stall = 20 * time.Second
)

// streamTimeouts gives the one stream a write timeout of its own: the server's
// would cut it.
func streamTimeouts(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if uri := string(h.RequestURI()); uri == livePath || strings.HasPrefix(uri, livePath+"?") {
		return fasthttp.RequestConfig{WriteTimeout: liveTime + stall}
	}
	return fasthttp.RequestConfig{}
}

// live sends readings as server-sent events as they are stored. Their id is the
// received time, which the readings of a frame share: the last of them carries it,
// so that who was cut off within a frame gets all of it again.
func (s *Server) live(r *request) error {
	agent, topic := r.agent("agent"), r.text("topic")
	if topic != "" && !store.ValidFilter(topic) {
		r.fail("topic: want an MQTT topic filter, such as plant/+/temperature or plant/#")
	}
	since, err := strconv.ParseInt("0"+r.Get("Last-Event-ID"), 10, 64)
	if err != nil {
		r.fail("Last-Event-ID: want the id of an event of this stream")
	}
	if r.fault != nil {
		return r.fault
	}
	if agent != "" && !r.caller.sees(agent) {
		return problem.New(http.StatusNotFound, "not known here")
	}
	ctx, cancel := work()
	defer cancel()
	w, err := s.opt.Feed.Watch(ctx, since)
	switch {
	case errors.Is(err, feed.ErrFull), errors.Is(err, feed.ErrClosed):
		r.Set(fiber.HeaderRetryAfter, "10")
		return problem.New(http.StatusServiceUnavailable, err.Error())
	case err != nil:
		return failure(err)
	}
	r.Set(fiber.HeaderContentType, "text/event-stream")
	r.Set("X-Accel-Buffering", "no")
	who, conn := r.caller, r.Context().Conn()
	wanted := func(rd *store.Reading) bool {
		return (agent == "" || rd.Agent == agent) && who.sees(rd.Agent) && (topic == "" || store.MatchTopic(topic, rd.Topic))
	}
	r.Context().SetBodyStreamWriter(func(b *bufio.Writer) {
		defer w.Close()
		stream(b, conn, w.C, wanted)
	})
	return nil
}

// stream writes events until the feed ends, the client goes, or an hour is over.
func stream(b *bufio.Writer, conn net.Conn, batches <-chan []store.Reading, wanted func(*store.Reading) bool) {
	end, tick := time.NewTimer(liveTime), time.NewTicker(beat)
	defer end.Stop()
	defer tick.Stop()
	if _, err := b.WriteString("retry: 2000\n\n"); err != nil || b.Flush() != nil {
		return
	}
	for {
		var err error
		select {
		case batch, ok := <-batches:
			if !ok {
				return
			}
			err = writeEvents(b, batch, wanted)
		case <-tick.C:
			_, err = b.WriteString(":\n\n")
		case <-end.C:
			return
		}
		if err != nil || conn.SetWriteDeadline(time.Now().Add(stall)) != nil || b.Flush() != nil {
			return
		}
	}
}

func writeEvents(b *bufio.Writer, batch []store.Reading, wanted func(*store.Reading) bool) error {
	var before *store.Reading
	for i := range batch {
		rd := &batch[i]
		if !wanted(rd) {
			continue
		}
		if before != nil {
			if err := writeEvent(b, before, rd.Received != before.Received); err != nil {
				return err
			}
		}
		before = rd
	}
	if before == nil {
		return nil
	}
	return writeEvent(b, before, true)
}

// writeEvent writes one event; last says that it is the last one received then.
func writeEvent(b *bufio.Writer, rd *store.Reading, last bool) error {
	data, err := json.Marshal(format.Of(rd))
	if err != nil {
		return err
	}
	if last {
		if _, err := fmt.Fprintf(b, "id: %d\n", rd.Received); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(b, "event: reading\ndata: %s\n\n", data)
	return err
}
