package protocol

import "github.com/varanhq/varan/schema"

// Bounds of a stream of logs.
const (
	LogsChunk   = 128 << 10 // bytes in one answer at most
	LogsIdle    = 30        // seconds after which a stream that nobody asks for ends
	LogsStreams = 16        // at once on one agent
	LogsMaxTail = 100_000   // lines
	LogsMaxWait = 10_000    // milliseconds an answer is held back while nothing is printed
	LogsLine    = 64 << 10  // bytes after which a line without end is cut
)

// Logs asks for what a resource's containers printed. The first one of a stream opens it, each further one asks for
// more: what nobody asks for is not sent, and the agent reads no further ahead than its buffer.
type Logs struct {
	Version  int       `json:"version"`
	Stream   string    `json:"stream"` // an id that the asker made
	Fleet    string    `json:"fleet"`
	Resource schema.ID `json:"resource"`
	Was      schema.ID `json:"was,omitempty"`     // its former name, if one is declared
	Service  string    `json:"service,omitempty"` // of this one only
	Tail     int       `json:"tail,omitempty"`    // lines of each container; 0 = 100
	Since    string    `json:"since,omitempty"`   // a time or a duration, as docker logs takes it
	Follow   bool      `json:"follow,omitempty"`
	// Secrets are masked before anything leaves the host. Only the first message has them.
	Secrets map[string]Secret `json:"secrets,omitempty"`
	Next    bool              `json:"next,omitempty"` // of a stream that is open
	Close   bool              `json:"close,omitempty"`
	Millis  int64             `json:"millis,omitempty"` // how long to wait for something to be printed
}

// Logged answers Logs with whole lines, as far as they are whole.
type Logged struct {
	Version int    `json:"version"`
	Data    []byte `json:"data,omitempty"`
	End     bool   `json:"end,omitempty"` // nothing follows
	Error   string `json:"error,omitempty"`
}
