package schema

import (
	"cmp"
	"strings"
)

// A Kind is a family of Resources, spelled as its singular TOML table ("stack").
type Kind string

// The kinds varan knows. Variables are not Resources: see [Variable].
const (
	KindServer         Kind = "server"
	KindDeployment     Kind = "deployment"
	KindStack          Kind = "stack"
	KindRepo           Kind = "repo"
	KindBuild          Kind = "build"
	KindBuilder        Kind = "builder"
	KindProcedure      Kind = "procedure"
	KindResourceSync   Kind = "resource_sync"
	KindAlerter        Kind = "alerter"
	KindServerTemplate Kind = "server_template"
)

// An ID names one Resource of a fleet: "stack/immich". Later versions may append "@server".
type ID string

// NewID joins a kind and a name.
func NewID(kind Kind, name string) ID { return ID(string(kind) + "/" + name) }

// Kind is the part before the slash.
func (id ID) Kind() Kind { k, _, _ := strings.Cut(string(id), "/"); return Kind(k) }

// Name is the part after the slash.
func (id ID) Name() string { _, n, _ := strings.Cut(string(id), "/"); return n }

// A Pos is a place in a file of the repository. Lines and columns count from 1, columns in bytes of the
// file as written. The zero Pos means "no place known".
type Pos struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Compare orders by file, line, column.
func (p Pos) Compare(q Pos) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
}

// Severity of a [Diagnostic].
type Severity string

const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// A Risk is what a change may cost beside its purpose; "" is none.
type Risk string

const (
	RiskData      Risk = "data"      // a container will see other or no data
	RiskPrivilege Risk = "privilege" // a container may newly do more to its host
	RiskKey       Risk = "key"       // an agent is let in, locked out or exchanged
)

// A Diagnostic is a mistake in what an author wrote: where, what, and how to put it right.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Pos
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Risk marks a warning that a reader must see before all others.
	Risk Risk `json:"risk,omitempty"`
	// Length in bytes of the marked text, for a caret line; 0 when unknown.
	Length int `json:"-"`
	// Shape marks what the JSON Schema finds too: unknown keys, missing keys, wrong types.
	Shape bool `json:"-"`
	// Unhandled marks "not handled by varan" and "not carried out by this version" warnings.
	Unhandled bool `json:"-"`
}

// A File is one file as it stands in the repository.
type File struct {
	Path string // slash-separated, relative to the repository's root
	Data []byte
	Blob string // content id; equal ids mean equal Data. Empty: not known, so never cached.
}

// Compat selects how Komodo's files are read; see docs/komodo.md.
type Compat string

const (
	CompatNone   Compat = ""
	CompatKomodo Compat = "komodo"
)

// A Ref names another Resource, with the place where it was written.
type Ref struct {
	ID  ID // resolved; empty if it could not be
	Raw string
	Pos Pos
}

// Ensure says in which state a stack or deployment is kept.
type Ensure string

const (
	EnsureRunning   Ensure = "running"
	EnsureStopped   Ensure = "stopped"
	EnsureCompleted Ensure = "completed"
)

// Deploy says what a merge does to a stack or deployment.
type Deploy string

const (
	DeployTrue   Deploy = "true"   // made to run
	DeployFalse  Deploy = "false"  // known and shown, changed only on request
	DeployFollow Deploy = "follow" // what runs is kept up to date, what does not run stays so (compat default)
)

// A Resource is one declared thing: the keys all kinds share, and its kind's own Config.
type Resource struct {
	ID          ID
	Kind        Kind
	Name        string
	Description string
	Tags        []string
	Template    bool
	Pos         Pos // of the table's header

	// Stacks and deployments only.
	Deploy  Deploy // resolved: never empty for them
	After   []Ref  // resolved, in the order written
	Ensure  Ensure // resolved: never empty for them
	Was     string // the former name
	Release bool   // let go of its objects and leave them running

	// Server is the server's name for kinds that stand on one; "" = none declared.
	Server string

	// Config is the kind's own table: *ServerConfig, *DeploymentConfig, *StackConfig, *RepoConfig,
	// *BuildConfig, *BuilderConfig, *ProcedureConfig, *ResourceSyncConfig, *AlerterConfig or
	// *ServerTemplateConfig, with defaults filled in. It must not be written to.
	Config any

	// Uses holds the references of Config that order planning (build, builder, linked repo,
	// template, server), resolved, without After.
	Uses []Ref

	// Unplaced says that it has no server though the Config declares others than the local machine, so it
	// belongs nowhere. Only under compat; otherwise that is an error.
	Unplaced bool

	// keys says where each key written stands: "config.server", "after[0]", "config.image.params.image".
	keys []keyPos
}

// Has reports whether the key was written, as opposed to filled in by a default.
func (r *Resource) Has(key string) bool { return r.key(key) != nil }

// At is where key's value stands, or the Resource's own place if it was not written.
func (r *Resource) At(key string) Pos {
	if k := r.key(key); k != nil {
		return Pos{File: r.Pos.File, Line: int(k.line), Column: int(k.column)}
	}
	return r.Pos
}

// Length is how many bytes key's value takes on its first line, 0 if it was not written.
func (r *Resource) Length(key string) int {
	if k := r.key(key); k != nil {
		return int(k.length)
	}
	return 0
}

func (r *Resource) key(key string) *keyPos {
	for i := range r.keys {
		if r.keys[i].key == key {
			return &r.keys[i]
		}
	}
	return nil
}

// Stack is the Config of a stack, nil for other kinds.
func (r *Resource) Stack() *StackConfig { c, _ := r.Config.(*StackConfig); return c }

// Deployment is the Config of a deployment, nil for other kinds.
func (r *Resource) Deployment() *DeploymentConfig { c, _ := r.Config.(*DeploymentConfig); return c }

// A Variable is a named value for [[NAME]].
type Variable struct {
	Name        string
	Description string
	Value       string
	IsSecret    bool
	Pos         Pos
}

// A Config is everything a set of files declares, sorted and cross-checked.
type Config struct {
	Compat    Compat
	Resources []*Resource // sorted by ID
	Variables map[string]*Variable
	// Skipped are the files that hold no table of ours, sorted.
	Skipped []string
	// Local is the name of the [[server]] with address = "local", "" if none is declared.
	Local string

	byID map[ID]*Resource
}

// Get returns the Resource of that id, or nil.
func (c *Config) Get(id ID) *Resource { return c.byID[id] }

// Source is the repository that s leads to, directly or by its linked repo; false if to none that is declared.
func (c *Config) Source(s Source) (Source, bool) {
	if s.LinkedRepo == "" {
		return s, s.Repo != ""
	}
	r := c.Get(NewID(KindRepo, NormalName(KindRepo, s.LinkedRepo)))
	if r == nil {
		return Source{}, false
	}
	rc, ok := r.Config.(*RepoConfig)
	if !ok {
		return Source{}, false
	}
	return rc.Source(), true
}
