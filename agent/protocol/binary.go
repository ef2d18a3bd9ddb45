package protocol

import "io"

const (
	// MaxBinary bounds an agent's binary, PartSize what one Carry brings of it.
	MaxBinary = 256 << 20
	PartSize  = 4 << 20
)

// A Binary is a build of varan that an agent is to be.
type Binary struct {
	Version  string `json:"version"`
	Platform string `json:"platform"` // "linux-amd64"
	SHA256   string `json:"sha256"`   // as committed
	Size     int64  `json:"size"`

	// Carry only: a part of it, compressed (gzip), and where in the binary that begins.
	Offset int64  `json:"offset,omitempty"`
	Part   []byte `json:"part,omitempty"`

	// Whole reads the binary on the daemon's side.
	Whole io.ReaderAt `json:"-"`
}
