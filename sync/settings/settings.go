package settings

import (
	"encoding"
	"log/slog"
	"path/filepath"
	"time"
)

// A Secret is a value that prints, logs and encodes as "[secret]"; Reveal is the one way to its bytes.
type Secret struct{ v string }

var _ encoding.TextUnmarshaler = (*Secret)(nil)

const hidden = "[secret]"

// NewSecret wraps a value.
func NewSecret(v string) Secret { return Secret{v} }

// Reveal is the value itself.
func (s Secret) Reveal() string               { return s.v }
func (s Secret) String() string               { return hidden }
func (s Secret) GoString() string             { return hidden }
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(hidden) }

// UnmarshalText takes the value as it stands in TOML.
func (s *Secret) UnmarshalText(text []byte) error { s.v = string(text); return nil }

// A Duration is written "30s".
type Duration time.Duration

// UnmarshalText reads "30s", "5m".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Settings is varan.toml with its defaults. It is a value: a reload makes a new one.
type Settings struct {
	Name           string   `toml:"name"`     // the fleet
	DataDir        string   `toml:"data_dir"` // journal, mirrors, socket
	Listen         string   `toml:"listen"`   // HTTP; "" = none
	PublicURL      string   `toml:"public_url"`
	Compat         string   `toml:"compat"`
	AllowInternal  bool     `toml:"allow_internal"`
	AllowHTTP      bool     `toml:"allow_http"`
	BehindProxy    bool     `toml:"behind_proxy"`
	TrustedProxies []string `toml:"trusted_proxies"`
	TLSCertFile    string   `toml:"tls_cert_file"`
	TLSKeyFile     string   `toml:"tls_key_file"`
	KnownHostsFile string   `toml:"known_hosts_file"` // of ssh remotes
	LogFormat      string   `toml:"log_format"`       // text or json
	LogLevel       string   `toml:"log_level"`        // debug, info, warn, error

	Hub    Hub    `toml:"hub"`
	Agent  Agent  `toml:"agent"`
	Config Config `toml:"config"`

	Forge          []Forge           `toml:"forge"`
	GitProvider    []Provider        `toml:"git_provider"`
	GitProviders   []Provider        `toml:"git_providers"` // the same table, as Komodo spells it; merged by Load
	DockerRegistry []Provider        `toml:"docker_registry"`
	ImageRegistry  []Provider        `toml:"image_registry"` // the same table; merged by Load
	Secrets        map[string]*Value `toml:"secrets"`
	Token          []Token           `toml:"token"`
}

// Hub is where agents connect.
type Hub struct {
	Listen  string `toml:"listen"`
	KeyFile string `toml:"key_file"` // the fleet's key: never inside data_dir
	URL     string `toml:"url"`      // an existing NATS cluster: nats:// or tls://, several with commas between
	CAFile  string `toml:"ca_file"`  // authorities of its certificates; "" = the system's
	Name    string `toml:"name"`     // what this daemon is called there; "" = as its host
	// Patience is how long a step waits for a server that was cut off in the middle of it.
	Patience Duration `toml:"patience"`
	// AgentsDir holds the binaries agents are updated with, varan-VERSION-PLATFORM each.
	AgentsDir string `toml:"agents_dir"`
}

// Agent is the agent inside the daemon.
type Agent struct {
	Root string `toml:"root"` // never inside data_dir
}

// Config is the root ResourceSync.
type Config struct {
	URL          string   `toml:"url"`
	Branch       string   `toml:"branch"`
	Path         []string `toml:"path"`
	Poll         Duration `toml:"poll"`
	Apply        string   `toml:"apply"` // auto or manual
	Delete       bool     `toml:"delete"`
	Drift        string   `toml:"drift"` // correct or report; "" = by compat
	MaxRemovals  int      `toml:"max_removals"`
	MaxFailures  int      `toml:"max_failures"`
	OnSurprise   string   `toml:"on_surprise"`
	PreviewForks string   `toml:"preview_forks"`
	StatusName   string   `toml:"status_name"`
	Approvers    []string `toml:"approvers"`
}

// Forge is one code host's API.
type Forge struct {
	Type              string `toml:"type"`
	Domain            string `toml:"domain"`
	APIURL            string `toml:"api_url"`
	Token             Secret `toml:"token"`
	TokenFile         string `toml:"token_file"`
	AppID             int64  `toml:"app_id"`
	InstallationID    int64  `toml:"installation_id"`
	PrivateKey        Secret `toml:"private_key"`
	PrivateKeyFile    string `toml:"private_key_file"`
	WebhookSecret     Secret `toml:"webhook_secret"`
	WebhookSecretFile string `toml:"webhook_secret_file"`
	ReportOutput      bool   `toml:"report_output"`
}

// Provider is a Git host or an image registry with its accounts.
type Provider struct {
	Domain        string    `toml:"domain"`
	HTTPS         *bool     `toml:"https"` // nil = true
	Path          string    `toml:"path"`  // credentials are used below this path only; "" = everywhere on the host
	Accounts      []Account `toml:"accounts"`
	Organizations []string  `toml:"organizations"`
}

// Account is one login.
type Account struct {
	Username   string `toml:"username"`
	Token      Secret `toml:"token"`
	TokenFile  string `toml:"token_file"`
	SSHKey     Secret `toml:"ssh_key"`
	SSHKeyFile string `toml:"ssh_key_file"`
}

// Token lets a caller of the HTTP API in.
type Token struct {
	Name string `toml:"name"`
	Role string `toml:"role"` // read or operate
	Hash string `toml:"hash"` // SHA-256 of the token, hex
}

// A Value is one entry of [secrets]: a string, or { file = "…" }.
type Value struct {
	Secret Secret
	File   string // "" = stands in varan.toml
}

// UnmarshalTOML takes either form.
func (v *Value) UnmarshalTOML(data any) error {
	switch x := data.(type) {
	case string:
		v.Secret = NewSecret(x)
		return nil
	case map[string]any:
		if f, ok := x["file"].(string); ok && len(x) == 1 && f != "" {
			v.File = f
			return nil
		}
	}
	return errValue
}

// Where folders stand, by who runs varan.
type Where struct {
	Root       bool   // running as root
	Home       string // $HOME
	DataHome   string // $XDG_DATA_HOME
	ConfigHome string // $XDG_CONFIG_HOME
}

func (w Where) data() string {
	if w.Root {
		return "/var/lib"
	}
	if filepath.IsAbs(w.DataHome) {
		return w.DataHome
	}
	return filepath.Join(w.Home, ".local", "share")
}

func (w Where) config() string {
	if w.Root {
		return "/etc"
	}
	if filepath.IsAbs(w.ConfigHome) {
		return w.ConfigHome
	}
	return filepath.Join(w.Home, ".config")
}

// File is where varan.toml stands unless --config says otherwise.
func (w Where) File() string { return filepath.Join(w.config(), "varan", "varan.toml") }

// Defaults are the Settings of an empty varan.toml.
func Defaults(w Where) *Settings {
	return &Settings{
		Name:           "main",
		DataDir:        filepath.Join(w.data(), "varan"),
		Listen:         "127.0.0.1:8080",
		KnownHostsFile: filepath.Join(w.config(), "varan", "known_hosts"),
		LogFormat:      "text",
		LogLevel:       "info",
		Hub:            Hub{KeyFile: filepath.Join(w.config(), "varan", "hub.key"), Patience: Duration(10 * time.Minute)},
		Agent:          Agent{Root: filepath.Join(w.data(), "varan-agent")},
		Config: Config{
			Branch: "main", Path: []string{"."}, Poll: Duration(time.Minute), Apply: "auto",
			MaxFailures: 5, OnSurprise: "ask", PreviewForks: "collaborators",
		},
	}
}

// Socket is where the daemon listens for the command line of this machine.
func (s *Settings) Socket() string { return filepath.Join(s.DataDir, "varan.sock") }
