package agent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/mask"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// prints tell whether a secret's value is still the one a resource was applied with. A print is an HMAC under a
// key of this agent's own, kept apart from the ledger. It is a shortcut: where it is lost, the live containers
// are asked instead.
type prints struct {
	dir string
	key []byte

	mu   sync.Mutex // guards what follows and the files
	have map[schema.ID]map[string]string
}

func openPrints(root string) (*prints, error) {
	key, err := newKey(filepath.Join(root, "key"))
	if err != nil {
		return nil, err
	}
	return &prints{dir: filepath.Join(root, "prints"), key: key, have: map[schema.ID]map[string]string{}}, nil
}

func (p *prints) of(parts ...string) string {
	h := hmac.New(sha256.New, p.key)
	for _, s := range parts {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (p *prints) file(id schema.ID) string {
	return filepath.Join(p.dir, segment(string(id.Kind())), segment(id.Name())+".json")
}

// load wants p.mu held.
func (p *prints) load(id schema.ID) map[string]string {
	if m, ok := p.have[id]; ok {
		return m
	}
	m := map[string]string{}
	if data, err := os.ReadFile(p.file(id)); err == nil {
		if json.Unmarshal(data, &m) != nil || m == nil {
			m = map[string]string{}
		}
	}
	p.have[id] = m
	return m
}

// keep notes the values a resource was applied with. What cannot be written is asked of the containers later.
func (p *prints) keep(id schema.ID, payload *protocol.Payload) {
	m := map[string]string{}
	for _, name := range used(payload) {
		if v, ok := payload.Secrets[name]; ok {
			m[name] = p.of(string(id), name, string(v))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(id, m)
}

func (p *prints) write(id schema.ID, m map[string]string) {
	p.have[id] = m
	if len(m) == 0 {
		_ = os.Remove(p.file(id))
		return
	}
	if data, err := json.Marshal(m); err == nil {
		_ = writeSynced(p.file(id), data)
	}
}

func (p *prints) drop(id schema.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.have, id)
	if err := os.Remove(p.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
}

// used are the secrets a payload's units use.
func used(p *protocol.Payload) []string {
	var out []string
	for _, u := range p.Units {
		out = append(out, u.Secrets...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// secretsChanged names the secrets whose value is not the one the live containers have.
func (a *Agent) secretsChanged(ctx context.Context, id schema.ID, p *protocol.Payload, live func() []string) []string {
	a.prints.mu.Lock()
	defer a.prints.mu.Unlock()
	have := a.prints.load(id)
	var changed []string
	learned := false
	for _, name := range used(p) {
		v, ok := p.Secrets[name]
		if !ok {
			continue
		}
		print := a.prints.of(string(id), name, string(v))
		if old, ok := have[name]; ok {
			if old != print {
				changed = append(changed, name)
			}
			continue
		}
		texts := live()
		if len(texts) == 0 {
			continue // nothing stands: nothing to compare with
		}
		if visible(p.Units, name) && !shows(texts, string(v)) {
			changed = append(changed, name)
			continue
		}
		have[name] = print
		learned = true
	}
	if learned {
		a.prints.write(id, have)
	}
	return changed
}

// shows reports whether a value stands in one of the texts, which are JSON.
func shows(texts []string, value string) bool {
	quoted, err := json.Marshal(value)
	if err != nil {
		return false
	}
	in := string(quoted[1 : len(quoted)-1])
	return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(t, in) })
}

// visible reports whether a secret stands where the engine shows it (environment, command, labels and so on),
// as opposed to inside a config's or secret's content only.
func visible(units []plan.Unit, name string) bool {
	found := false
	var walk func(v any, hidden bool)
	walk = func(v any, hidden bool) {
		switch v := v.(type) {
		case string:
			found = found || (!hidden && strings.Contains(v, "[["+name+"]]"))
		case []any:
			for _, e := range v {
				walk(e, hidden)
			}
		case map[string]any:
			for k, e := range v {
				walk(e, hidden || k == "configs" || k == "secrets" || k == "networks" || k == "volumes")
			}
		}
	}
	for _, u := range units {
		if !slices.Contains(u.Secrets, name) {
			continue
		}
		var spec any
		if json.Unmarshal(u.Spec, &spec) == nil {
			walk(spec, false)
		}
	}
	return found
}

// revealer puts secrets' values where their names stand.
func revealer(p *protocol.Payload) func(string) string {
	secrets := map[string]string{}
	for name, v := range p.Secrets {
		secrets[name] = string(v)
	}
	return func(text string) string { return compose.Reveal(text, secrets) }
}

// redactor takes the payload's secrets out of what leaves this host.
func redactor(p *protocol.Payload) func(string) string {
	if p == nil || len(p.Secrets)+len(p.Registries) == 0 {
		return func(s string) string { return s }
	}
	values := map[string]string{}
	for name, v := range p.Secrets {
		values[name] = string(v)
	}
	for _, r := range p.Registries {
		values["password of "+r.Domain] = string(r.Password)
	}
	m := mask.New(values)
	return m.String
}

func redact(o protocol.Outcome, p *protocol.Payload) protocol.Outcome {
	m := redactor(p)
	o.Error, o.Hint, o.Tail = m(o.Error), m(o.Hint), m(o.Tail)
	return o
}

// quiet says which containers' words may hold a value that the payload's redactor does not know: the new ones' where
// a secret of theirs did not come along, and those of before wherever they have secrets, which may have had other
// values then, or were made by somebody else. next and last are the entries of both, nil where nothing is known.
func quiet(p *protocol.Payload, next, last *plan.Entry) container.Quiet {
	open := func(units []plan.Unit, known map[string]protocol.Secret) bool {
		return slices.ContainsFunc(units, func(u plan.Unit) bool {
			return slices.ContainsFunc(u.Secrets, func(s string) bool { _, ok := known[s]; return !ok })
		})
	}
	q := container.Quiet{New: true, Old: last == nil || last.Adopted || open(last.Units, nil)}
	switch {
	case p != nil:
		q.New = open(p.Units, p.Secrets)
	case next != nil:
		q.New = open(next.Units, nil)
	}
	return q
}
