package wire

import "github.com/varanhq/varan/agent/protocol"

// A Greeting answers Hello: who the agent is and where it stands.
type Greeting struct {
	Version int    `json:"version"` // protocol.Version
	Session string `json:"session"`
	Term    uint64 `json:"term"` // the highest it obeyed
	Name    string `json:"name,omitempty"`
}

// Waiting asks for an op's outcome and, to be sure of the connection, for an answer by then.
type Waiting struct {
	Op     protocol.OpID `json:"op"`
	Millis int64         `json:"millis"`
}

// Waited answers Waiting.
type Waited struct {
	State   string            `json:"state"` // done, running, unknown
	Outcome *protocol.Outcome `json:"outcome,omitempty"`
}

// Rekeying names the fleet's next key; the present one signs it, as any message.
type Rekeying struct {
	Next string `json:"next"`
}

// Rekeyed answers Rekeying: both keys are obeyed from now on, until the first message under the next.
type Rekeyed struct {
	Next  string `json:"next,omitempty"`
	Error string `json:"error,omitempty"`
}
