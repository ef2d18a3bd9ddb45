package sync

import (
	"context"
	"log/slog"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/schema"
)

// Options is what New needs. The zero value of a field means its default.
type Options struct {
	Settings Settings

	// Memory keeps what a sync remembers over restarts where every daemon that may lead finds it; nil = below DataDir.
	Memory  Memory
	DataDir string // mirrors and what each sync applied last lie below it; "" = memory only
	Local   string // --as: the server this process acts as; "" = the [[server]] with address "local", else "local"

	Servers apply.Fleet
	// This is what Servers calls this machine, whatever a commit calls it; "" = as the commit does.
	This string
	// Enrol is told which agents, by their public keys, stand for which servers, whenever a commit of the branch
	// changes that; nil = nobody needs to know.
	Enrol   func(keys map[string]string) error
	Journal apply.Journal // nil = runs are kept in memory only
	// Mend makes Journal writable again after its disk was full or failing; it does nothing while it is. Nil = nothing
	// can be done.
	Mend     func() error
	Reporter Reporter     // nil = the log alone
	Log      *slog.Logger // nil = discarded

	// Surprises tells which risks of a commit's plan its pull request did not show: they are asked about. It is called
	// only for plans with risks; nil = none is a surprise.
	Surprises func(ctx context.Context, commit string, risks []string) []string

	// Refresh has every server asked anew, whatever is remembered of it; nil = nothing is.
	Refresh func()
	// Figures is what a server's agent said last of its machine; nil = nobody knows.
	Figures func(server string) (protocol.Figures, bool)
	// Events delivers the names of servers on which something changed; nil = only periods look.
	Events <-chan string
	// Parallel bounds the ops in flight: in total and on one server. 0 = apply's default.
	Parallel, PerServer int
	// Logs asks a server's agent for what containers print; nil = nobody can be asked.
	Logs func(ctx context.Context, server string, q protocol.Logs) (protocol.Logged, error)
	// Patience is how long a step waits for a server that was cut off in the middle of it; 0 = apply's default.
	Patience time.Duration
	// whole: a folder is planned with the whole fleet, for there is a daemon that has it.
	whole bool
	// Clock knobs that tests shorten.
	Timing Timing
}

// A Memory keeps small values by name: nil is nothing.
type Memory interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error
}

// Timing holds periods. Zero fields take the defaults named.
type Timing struct {
	Drift     time.Duration // look for drift at least this often: 5 m
	Debounce  time.Duration // gather events this long before acting: 500 ms
	Rewritten time.Duration // a rewritten head must stand this long: 30 s
	RetryMin  time.Duration // backoff after a failure that stopped nothing: 1 m
	RetryMax  time.Duration // 1 h
}

// Settings is the part of varan.toml that sync obeys; Daemon.Reload replaces it as a whole.
type Settings struct {
	Fleet  string // name; default "main"
	Compat schema.Compat
	Config Root

	GitAccounts []GitAccount
	Registries  []RegistryAccount
	Secrets     map[string]protocol.Secret // [secrets]

	AgentsDir string // the binaries agents are updated with; "" = none

	AllowInternal bool   // the daemon's own connections may go to loopback and private services
	AllowHTTP     bool   // http remotes
	KnownHosts    string // path of the known_hosts file; "" = ssh remotes are an error that says so
}

// Root is [config]: the root ResourceSync.
type Root struct {
	URL    string // https://, ssh://, user@host:path, http://, file://, or a path
	Branch string // default "main"; for a local repository, the branch that is checked out
	Path   []string
	Poll   time.Duration // 1 m
	Apply  string        // "auto" (default) or "manual"
	Delete bool
	Drift  string // "correct" (default) or "report" (default under compat)

	MaxRemovals int
	MaxFailures int
	OnSurprise  string // "ask" (default) or "apply"
}

// A GitAccount is one credential, bound to where it may go.
type GitAccount struct {
	Scheme   string // "https", "http" or "ssh"; "" = https
	Host     string // host or host:port
	Path     string // prefix of the repository's path; "" = all
	Username string
	Token    protocol.Secret
	SSHKey   protocol.Secret // PEM of a private key
	// Fresh, in the place of Token, gives one that counts now; it is handed the one that was refused, "" = none was.
	Fresh func(ctx context.Context, refused string) (string, error)
}

// A RegistryAccount is one login of [[docker_registry]].
type RegistryAccount struct {
	Domain   string
	Username string
	Token    protocol.Secret
}
