package intake

import (
	"bytes"
	"slices"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// hook is where mochi hands messages over. Its OnPublish never lets mochi go
// on: mochi acknowledges at once whatever is not rejected, also after an error.
// What mochi would have done behind the hook is done here or not at all: the
// receive quota (session.hold), PUBACK and PUBREC (session.writeAcks); RETAIN
// and fan-out to subscribers are left out on purpose.
type hook struct {
	mqtt.HookBase
	server *Server
}

// ID names the hook in mochi's log.
func (h *hook) ID() string { return "intake" }

// Provides says which of the methods below mochi is to call.
func (h *hook) Provides(b byte) bool {
	return bytes.IndexByte([]byte{
		mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablished, mqtt.OnDisconnect,
		mqtt.OnPacketRead, mqtt.OnPacketEncode, mqtt.OnPublish, mqtt.OnWillSent,
	}, b) >= 0
}

// OnConnect bounds the keepalive, which mochi multiplies in 16 bits, and the
// will's delay: a delayed will of a clean session would be dropped.
func (h *hook) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	if cl.State.Keepalive == 0 || cl.State.Keepalive > maxIdle {
		cl.State.Keepalive = maxIdle
		cl.State.ServerKeepalive = true
	}
	cl.Properties.Will.WillDelayInterval = 0
	return nil
}

// OnConnectAuthenticate checks user and password where users are configured.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	users := h.server.opts.Users
	if users == nil || users.Check(string(pk.Connect.Username), pk.Connect.Password) {
		return true
	}
	h.server.src.ended.WithLabelValues("password").Inc()
	h.server.warner.warn("mqtt user or password refused", "remote", cl.Net.Remote)
	return false
}

// OnACLCheck lets everyone publish and no one subscribe: a subscriber that is
// told so is better off than one that waits for messages.
func (h *hook) OnACLCheck(_ *mqtt.Client, _ string, write bool) bool { return write }

// OnSessionEstablished is followed by OnDisconnect in every case.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) { h.server.begin(cl) }

// OnDisconnect ends what OnSessionEstablished began.
func (h *hook) OnDisconnect(cl *mqtt.Client, _ error, _ bool) { h.server.finish(cl) }

// OnPacketRead ends the session of a client that publishes where mochi would
// drop the message without a word: to $SYS, or to a payload above the limit.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type != packets.Publish {
		return pk, nil
	}
	reason := ""
	switch {
	case len(pk.Payload) > h.server.opts.MaxPayload:
		reason = "size"
		h.server.src.oversized.Inc()
	case !mqtt.IsValidFilter(pk.TopicName, true):
		reason = "topic"
	default:
		return pk, nil
	}
	h.server.src.ended.WithLabelValues(reason).Inc()
	h.server.warner.warn("mqtt session ended", "reason", reason, "client", shortID(cl.ID), "remote", cl.Net.Remote, "bytes", len(pk.Payload))
	return pk, packets.ErrRejectPacket
}

// OnPacketEncode tells MQTT 5 clients the largest packet, and makes PUBCOMP a
// success: QoS 2 is stored at least once and nothing is remembered of it, so
// mochi does not know the packet id that a PUBREL releases.
func (h *hook) OnPacketEncode(_ *mqtt.Client, pk packets.Packet) packets.Packet {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		pk.Properties.MaximumPacketSize = h.server.maxPacket()
	case packets.Pubcomp:
		pk.ReasonCode = packets.CodeSuccess.Code
		pk.Properties = packets.Properties{}
	}
	return pk
}

// OnPublish submits the message and returns before it is durable, so that one
// client can have many on the way; mochi calls it one by one for each client.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if s := h.server.session(cl); s != nil {
		h.submit(s, &pk)
	}
	return pk, packets.ErrRejectPacket
}

func (h *hook) submit(s *session, pk *packets.Packet) {
	p := &pending{session: s, id: pk.PacketID, reading: telemetry.Reading{
		Topic: pk.TopicName, QoS: pk.FixedHeader.Qos, Dup: pk.FixedHeader.Dup, Payload: pk.Payload,
	}}
	if s.hold(p.size(), h.server.flush) != nil {
		return // the session is over
	}
	s.src.count(&p.reading)
	if err := h.server.opts.Store.Submit(s.ctx, &p.reading, nil, p.done); err != nil {
		s.fail(err)
	}
}

// OnWillSent stores a will, which mochi publishes past OnPublish. Nobody waits
// for an acknowledgement of it.
func (h *hook) OnWillSent(_ *mqtt.Client, pk packets.Packet) {
	if h.server.isStopping() {
		return // it is the agent that goes, not the client
	}
	r := &telemetry.Reading{Topic: pk.TopicName, QoS: pk.FixedHeader.Qos, Payload: slices.Clone(pk.Payload)}
	h.server.src.count(r)
	err := h.server.opts.Store.Submit(h.server.ctx, r, nil, func(uint64, error) {})
	if err != nil {
		h.server.warner.warn("mqtt will not stored", "error", err)
	}
}
