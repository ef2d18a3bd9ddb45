package settings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/varanhq/varan/schema"
)

const (
	// Quiet is how long a secret file must lie unchanged before it is taken: whoever writes it is done then.
	Quiet = time.Second
	// most is far above any key or token.
	most = 1 << 20
	// fallback re-reads what file events may have missed (network file systems have none).
	fallback = 30 * time.Second
)

// A Problem is a secret that could not be read; its last value stays in use.
type Problem struct {
	Key  string // "secrets.DB_PASSWORD", "git_provider[0].accounts[0].token"
	File string
	Err  string
	Kept bool // a value read earlier is in use
}

func (p Problem) String() string {
	s := fmt.Sprintf("%s: %s", p.Key, p.Err)
	if p.Kept {
		s += "; the value read before stays in use"
	}
	return s
}

// A Watcher reads varan.toml and its secret files, and again when they change.
type Watcher struct {
	Input Input // Data is filled from Path
	Path  string
	// Must says that a missing file is an error: it was named by --config.
	Must bool
	Log  *slog.Logger
	// Changed is called from Run's goroutine with Settings that differ and are without error.
	Changed func(*Settings)

	mu       sync.Mutex // guards all below
	last     map[string]taken
	now      *Settings
	problems []Problem
	broken   []schema.Diagnostic // of the newest varan.toml when that is not in use
}

// taken is a secret file's content with what tells whether the file changed.
type taken struct {
	value Secret
	print string
}

// Read reads everything once. The Settings are nil when a Diagnostic is an error.
func (w *Watcher) Read(ctx context.Context) (*Settings, []schema.Diagnostic, error) {
	in := w.Input
	in.File = w.Path
	data, err := readBounded(w.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !w.Must:
	case err != nil:
		return nil, nil, fmt.Errorf("read settings: %w", err)
	default:
		in.Data = data
		if in.Data == nil {
			in.Data = []byte{}
		}
	}
	s, diags := Load(in)
	if slices.ContainsFunc(diags, func(d schema.Diagnostic) bool { return d.Severity == schema.SeverityError }) {
		w.mu.Lock()
		w.broken = diags
		w.mu.Unlock()
		return nil, diags, nil
	}
	problems := w.fill(ctx, s)
	w.mu.Lock()
	w.now, w.problems, w.broken = s, problems, nil
	w.mu.Unlock()
	return s, diags, nil
}

// Problems lists the secrets that cannot be read now, and what is wrong with a varan.toml that is not in use.
func (w *Watcher) Problems() []Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.problems)
	for _, d := range w.broken {
		if d.Severity == schema.SeverityError {
			out = append(out, Problem{Key: "varan.toml", File: w.Path, Err: fmt.Sprintf("line %d: %s", d.Line, d.Message), Kept: w.now != nil})
		}
	}
	return out
}

// ref is one place in Settings that a file fills.
type ref struct {
	key  string
	dst  *Secret
	file string
}

func (s *Settings) refs() []ref {
	var out []ref
	add := func(key string, dst *Secret, file string) {
		if file != "" {
			out = append(out, ref{key, dst, file})
		}
	}
	for i := range s.Forge {
		f, key := &s.Forge[i], fmt.Sprintf("forge[%d].", i)
		add(key+"token", &f.Token, f.TokenFile)
		add(key+"private_key", &f.PrivateKey, f.PrivateKeyFile)
		add(key+"webhook_secret", &f.WebhookSecret, f.WebhookSecretFile)
	}
	accounts := func(table string, ps []Provider) {
		for i := range ps {
			for j := range ps[i].Accounts {
				a, key := &ps[i].Accounts[j], fmt.Sprintf("%s[%d].accounts[%d].", table, i, j)
				add(key+"token", &a.Token, a.TokenFile)
				add(key+"ssh_key", &a.SSHKey, a.SSHKeyFile)
			}
		}
	}
	accounts("git_provider", s.GitProvider)
	accounts("docker_registry", s.DockerRegistry)
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		add("secrets."+name, &s.Secrets[name].Secret, s.Secrets[name].File)
	}
	return out
}

// Files lists the secret files, sorted, absolute where dir is.
func (s *Settings) Files(dir string) []string {
	set := map[string]bool{}
	for _, r := range s.refs() {
		set[at(dir, r.file)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func at(dir, file string) string {
	if filepath.IsAbs(file) {
		return filepath.Clean(file)
	}
	return filepath.Join(dir, file)
}

// fill puts every secret file's content into s.
func (w *Watcher) fill(ctx context.Context, s *Settings) []Problem {
	w.mu.Lock()
	last := maps.Clone(w.last)
	w.mu.Unlock()
	if last == nil {
		last = map[string]taken{}
	}
	dir := filepath.Dir(w.Path)
	failed := map[string]error{}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards last and failed while files settle side by side
	for _, file := range s.Files(dir) {
		had, ok := last[file]
		if info, err := os.Stat(file); ok && err == nil && print(info) == had.print {
			continue
		}
		wg.Go(func() {
			t, err := settle(ctx, file)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[file] = err
				return
			}
			last[file] = t
		})
	}
	wg.Wait()
	var problems []Problem
	for _, r := range s.refs() {
		file := at(dir, r.file)
		t, kept := last[file]
		if kept {
			*r.dst = t.value
		}
		if err := failed[file]; err != nil {
			problems = append(problems, Problem{Key: r.key, File: file, Err: err.Error(), Kept: kept})
		}
	}
	w.mu.Lock()
	w.last = last
	w.mu.Unlock()
	return problems
}

var errEmpty = errors.New("the file is empty")

// settle reads a file once it lay unchanged for Quiet; an old one is read at once. It gives up after ten tries.
func settle(ctx context.Context, file string) (taken, error) {
	for range 10 {
		before, err := os.Stat(file)
		if err != nil {
			return taken{}, err
		}
		if !before.Mode().IsRegular() {
			return taken{}, fmt.Errorf("%s is no regular file", file)
		}
		if age := time.Since(before.ModTime()); age < Quiet && age > -Quiet {
			select {
			case <-ctx.Done():
				return taken{}, context.Cause(ctx)
			case <-time.After(Quiet):
			}
		}
		data, err := readBounded(file)
		if err != nil {
			return taken{}, err
		}
		after, err := os.Stat(file)
		if err != nil {
			return taken{}, err
		}
		if print(before) != print(after) {
			continue
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if text == "" {
			return taken{}, fmt.Errorf("%s: %w", file, errEmpty)
		}
		return taken{NewSecret(text), print(after)}, nil
	}
	return taken{}, fmt.Errorf("%s changes all the time", file)
}

func print(i fs.FileInfo) string {
	return fmt.Sprintf("%d %d %v", i.Size(), i.ModTime().UnixNano(), i.Mode())
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s is larger than %d bytes", file, most)
	}
	return data, err
}

// Run reloads until ctx ends. Folders are watched, not files: editors and secret stores replace files.
func (w *Watcher) Run(ctx context.Context) error {
	fw, err := fsnotify.NewWatcher()
	if err != nil {
		w.Log.Warn("no file events; settings are read every 30 s", "err", err)
	} else {
		defer fw.Close()
	}
	var events chan fsnotify.Event
	if fw != nil {
		events = fw.Events
	}
	w.watch(fw)
	tick := time.NewTicker(fallback)
	defer tick.Stop()
	soon := time.NewTimer(time.Hour)
	soon.Stop()
	defer soon.Stop()
	seen, trouble := w.fingerprint(), false
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if e.Op != fsnotify.Chmod {
				soon.Reset(100 * time.Millisecond) // an editor's save is several events
			}
			continue
		case <-tick.C:
			w.mu.Lock()
			trouble = len(w.problems) > 0
			w.mu.Unlock()
		case <-soon.C: // of the folder: it may be about another file
			trouble = false
		}
		f := w.fingerprint()
		if f == seen && !trouble {
			continue
		}
		seen = f
		w.reload(ctx)
		w.watch(fw)
	}
}

func (w *Watcher) reload(ctx context.Context) {
	w.mu.Lock()
	before := w.now
	had := slices.Clone(w.problems)
	w.mu.Unlock()
	s, diags, err := w.Read(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.Log.Error("settings not read; the former ones stay in use", "file", w.Path, "err", err)
		return
	}
	if s == nil {
		for _, d := range diags {
			if d.Severity == schema.SeverityError {
				w.Log.Error("settings are wrong; the former ones stay in use", "file", w.Path, "line", d.Line, "err", d.Message)
			}
		}
		return
	}
	for _, p := range w.Problems() {
		if !slices.Contains(had, p) {
			w.Log.Error("secret not read", "key", p.Key, "file", p.File, "err", p.Err, "kept", p.Kept)
		}
	}
	if before != nil && same(before, s) {
		return
	}
	w.Log.Info("settings read again", "file", w.Path)
	if w.Changed != nil {
		w.Changed(s)
	}
}

// watch adds the folders of all files; adding twice does nothing.
func (w *Watcher) watch(fw *fsnotify.Watcher) {
	if fw == nil {
		return
	}
	for _, f := range w.files() {
		// A folder that is not there yet is found by the fallback.
		_ = fw.Add(filepath.Dir(f))
		if target, err := filepath.EvalSymlinks(f); err == nil {
			_ = fw.Add(filepath.Dir(target))
		}
	}
}

func (w *Watcher) files() []string {
	w.mu.Lock()
	s := w.now
	w.mu.Unlock()
	files := []string{w.Path}
	if s != nil {
		files = append(files, s.Files(filepath.Dir(w.Path))...)
	}
	return files
}

func (w *Watcher) fingerprint() string {
	var b strings.Builder
	for _, f := range w.files() {
		if i, err := os.Stat(f); err == nil {
			b.WriteString(print(i))
		} else {
			b.WriteString("gone")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
