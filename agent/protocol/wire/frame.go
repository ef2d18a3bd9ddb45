package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nkeys"
)

// Version of frames and manifests. One release apart works both ways.
const Version = 1

const (
	// ChunkSize bounds the body bytes in one frame: half of NATS's default payload.
	ChunkSize = 512 << 10
	// MaxMessage bounds a body, sealed.
	MaxMessage = 256 << 20

	maxManifest = 4 << 10
	sigSize     = 64
	idSize      = 16
	domain      = "varan message 1\n" // so that no other signature of the key passes for a manifest's
)

// A Kind names what a message is.
type Kind string

const (
	Hello    Kind = "hello"    // daemon: who are you? Its answer too
	Here     Kind = "here"     // agent, unasked: just connected
	Observe  Kind = "observe"  // protocol.Observe, answered by protocol.Observed
	Submit   Kind = "submit"   // protocol.Op, answered by protocol.Submit
	Wait     Kind = "wait"     // Waiting, answered by Waited
	Rekey    Kind = "rekey"    // Rekeying, answered by Rekeyed
	Answer   Kind = "answer"   // of those above
	Progress Kind = "progress" // protocol.Progress, unasked
	Changed  Kind = "changed"  // agent, unasked: look again
	Logs     Kind = "logs"     // protocol.Logs, answered by protocol.Logged
	Figures  Kind = "figures"  // protocol.Figures, unasked
)

// A Manifest heads a message; its sender signs it.
type Manifest struct {
	Version int    `json:"v"`
	Kind    Kind   `json:"kind"`
	ID      string `json:"id"`             // hex, random, of this message
	From    string `json:"from"`           // public key of the signer
	Agent   string `json:"agent"`          // public key of the agent it is for or from
	Curve   string `json:"curve"`          // the sender's curve key, to answer to
	To      string `json:"to,omitempty"`   // the receiver's curve key; "" = not sealed
	Re      string `json:"re,omitempty"`   // the ID it answers
	Session string `json:"sess,omitempty"` // the agent's, from its hello: a message of an earlier one is void
	Seq     uint64 `json:"seq,omitempty"`  // counts up from 1 within the session and Curve
	Term    uint64 `json:"term,omitempty"`
	Op      string `json:"op,omitempty"`
	Size    int64  `json:"size"` // of the body, sealed
	Chunks  int    `json:"chunks"`
	Hash    string `json:"hash"` // SHA-256 of the body, sealed; hex
}

// check refuses a manifest no sender of ours would write.
func (m *Manifest) check() error {
	switch {
	case m.Version < Version-1 || m.Version > Version+1:
		return fmt.Errorf("version %d of the wire format is not spoken here, only %d", m.Version, Version)
	case len(m.ID) != 2*idSize:
		return errors.New("bad message id")
	case m.Size < 0 || m.Size > MaxMessage:
		return fmt.Errorf("message of %d bytes: at most %d", m.Size, MaxMessage)
	case m.Chunks != chunks(m.Size):
		return fmt.Errorf("message of %d bytes in %d chunks", m.Size, m.Chunks)
	}
	if _, err := hex.DecodeString(m.ID); err != nil {
		return errors.New("bad message id")
	}
	return nil
}

// chunks is how many frames a body takes; an empty one takes one.
func chunks(size int64) int { return int(max(1, (size+ChunkSize-1)/ChunkSize)) }

// A frame is one NATS message: a signed manifest with the first chunk, or a further chunk.
type frame struct {
	manifest *Manifest // nil: a further chunk
	id       string
	index    int
	data     []byte
}

// decodeFrame reads a frame, checks the signature of a manifest against the key it names, and trusts nothing else.
func decodeFrame(b []byte) (*frame, error) {
	if len(b) == 0 {
		return nil, errors.New("empty frame")
	}
	switch b[0] {
	case 'M':
		return decodeFirst(b[1:])
	case 'C':
		if len(b) < 1+idSize+4 {
			return nil, errors.New("short chunk")
		}
		f := &frame{id: hex.EncodeToString(b[1 : 1+idSize]), index: int(binary.BigEndian.Uint32(b[1+idSize:])), data: b[1+idSize+4:]}
		if f.index < 1 || f.index >= chunks(MaxMessage) || len(f.data) == 0 || len(f.data) > ChunkSize {
			return nil, errors.New("bad chunk")
		}
		return f, nil
	}
	return nil, errors.New("unknown frame")
}

func decodeFirst(b []byte) (*frame, error) {
	if len(b) < 2 {
		return nil, errors.New("short manifest")
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > maxManifest || len(b) < n+sigSize {
		return nil, errors.New("bad manifest")
	}
	raw, sig, data := b[:n], b[n:n+sigSize], b[n+sigSize:]
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, errors.New("bad manifest")
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	if int64(len(data)) != min(m.Size, ChunkSize) {
		return nil, errors.New("chunk and manifest differ")
	}
	key, err := nkeys.FromPublicKey(m.From)
	if err != nil || key.Verify(signed(raw), sig) != nil {
		return nil, errors.New("not signed by the key it names")
	}
	return &frame{manifest: &m, id: m.ID, data: data}, nil
}

func signed(manifest []byte) []byte { return append([]byte(domain), manifest...) }

// encodeFirst signs a manifest and joins it with the first chunk.
func encodeFirst(m *Manifest, key nkeys.KeyPair, data []byte) ([]byte, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxManifest {
		return nil, errors.New("manifest too large")
	}
	sig, err := key.Sign(signed(raw))
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	var b bytes.Buffer
	b.Grow(3 + len(raw) + sigSize + len(data))
	b.WriteByte('M')
	b.Write(binary.BigEndian.AppendUint16(nil, uint16(len(raw))))
	b.Write(raw)
	b.Write(sig)
	b.Write(data)
	return b.Bytes(), nil
}

// encodeChunk is frame index of a message, counted from 1.
func encodeChunk(id string, index int, data []byte) []byte {
	raw, _ := hex.DecodeString(id) // ours
	b := make([]byte, 0, 1+idSize+4+len(data))
	b = append(b, 'C')
	b = append(b, raw...)
	b = binary.BigEndian.AppendUint32(b, uint32(index))
	return append(b, data...)
}
