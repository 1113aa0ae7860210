package telemetry

// The limits of version 1. EncodeFrame and EncodeReceipt refuse what is above
// them, and every decoder checks them before it allocates.
const (
	MaxFrame       = 1<<20 - 8<<10 // bytes of an encoded frame: with base64 and a JSON envelope it stays under 1.5 MiB
	MaxHeader      = 8 << 10       // bytes of an encoded header
	MaxBody        = 8 << 20       // bytes of a frame's body after decompression, and also of all its payloads together
	MaxRecords     = 65536         // records in a frame
	MaxPayload     = 512 << 10     // bytes of one payload
	MaxTopic       = 65535         // bytes of one topic: MQTT's own limit
	MaxTraceparent = 128           // bytes; the W3C form has 55
	MaxVersion     = 128           // bytes of an agent's version in a Start
	MaxOpen        = 17            // open epochs listed in a header: its own and 16 others
	MaxHeld        = 16            // ranges held above the watermark, per epoch of a receipt

	MaxReceipt  = 64 << 10 // bytes of an encoded receipt
	MaxEpochs   = 64       // epochs in a receipt
	MaxAgain    = 64       // ranges that a receipt asks for again
	MaxRejected = 64       // rejections in a receipt
	MaxReason   = 256      // bytes of a rejection's reason
	MaxCloud    = 253      // bytes of a cloud id: a DNS name fits
	MaxChain    = 8        // certificates in a receipt: seven rotations of the root

	MaxToken = 256     // bytes of an enrolment token's text
	MaxEnrol = 8 << 10 // bytes of an enrolment request or response
)
