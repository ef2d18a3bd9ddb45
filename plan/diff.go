package plan

import (
	"bytes"
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/varanhq/varan/schema"
)

// onHost stands for a value that was seen on a server and does not stand in Git.
const onHost = "(set on the host)"

// maxDepth bounds how deep two specs are compared field by field; below it they are shown whole.
const maxDepth = 32

func itoa(i int) string { return strconv.Itoa(i) }

// explain adds the causes and field changes of a container made from another spec than u.
func (m *maker) explain(n *node, u *Unit, c *Container, v *verdict) {
	old := n.before(u.Service)
	if old != nil && c.Digest != "" && old.Digest != c.Digest {
		old = nil // the ledger tells of another container than the one that runs
	}
	if old == nil {
		old = m.fromPrevious(n, c)
	}
	if old == nil {
		v.need(Recreate, false, SpecChanged, n.label(u.Service)+"was made from another declaration, which is not recorded")
		v.changes = append(v.changes, m.imageChange(n, u, c)...)
		return
	}
	before := len(v.causes)
	changes := m.specChanges(n, u, old)
	for _, ch := range changes {
		if ch.Path == n.path(u.Service, "image") {
			v.need(Recreate, false, ImageChanged, n.label(u.Service)+"gets another image")
			break
		}
	}
	if len(changes) > 1 || len(changes) == 1 && len(v.causes) == before {
		v.need(Recreate, false, SpecChanged, strings.TrimSuffix(n.label(u.Service), " ")+" is declared otherwise")
	}
	files := fileChanges(old.Files, u.Files)
	for _, ch := range files {
		v.need(Recreate, false, FileChanged, ch.Path+" changed")
	}
	if len(v.causes) == before {
		v.need(Recreate, false, SpecChanged, strings.TrimSuffix(n.label(u.Service), " ")+" is declared otherwise")
	}
	v.changes = append(v.changes, changes...)
	v.changes = append(v.changes, files...)
}

// fromPrevious finds the spec a container was made from in the Config applied before.
func (m *maker) fromPrevious(n *node, c *Container) *Unit {
	if m.previous == nil || n.res.Kind != schema.KindDeployment {
		return nil
	}
	r := m.previous.Get(n.id)
	if r == nil {
		return nil
	}
	r, _ = schema.ResolveVariables(r, m.previous.Variables, func(name string) (secret, ok bool) {
		secret, ok = m.d.Known[name]
		return secret, ok
	})
	d := DeclareDeployment(r, m.d.Known)
	if len(d.Units) == 1 && d.Units[0].Digest == c.Digest {
		return &d.Units[0]
	}
	return nil
}

// imageChange is what the list of containers alone can tell.
func (m *maker) imageChange(n *node, u *Unit, c *Container) []Change {
	if c.Image == "" || u.Image == "" || c.Image == u.Image || strings.HasPrefix(c.Image, "sha256:") {
		return []Change{{Path: strings.TrimSuffix(n.path(u.Service, ""), "."), New: Short(string(u.Digest))}}
	}
	return []Change{{Path: n.path(u.Service, "image"), Old: c.Image, New: u.Image}}
}

// specChanges compares two specs field by field. "definitions" holds the networks, volumes, configs and secrets
// a stack's service uses; the rest are the container's own fields.
func (m *maker) specChanges(n *node, u, old *Unit) []Change {
	oldTree, okOld := decodeTree(old.Spec)
	newTree, okNew := decodeTree(u.Spec)
	if !okOld || !okNew {
		return nil
	}
	var out []Change
	oldMap, _ := oldTree.(map[string]any)
	newMap, _ := newTree.(map[string]any)
	diff(&out, strings.TrimSuffix(n.path(u.Service, ""), "."), without(oldMap, "definitions"), without(newMap, "definitions"), 0)
	diff(&out, "", oldMap["definitions"], newMap["definitions"], 0)
	for i := range out {
		out[i].Secret = m.mentionsSecret(out[i].Old) || m.mentionsSecret(out[i].New)
	}
	return out
}

func without(tree map[string]any, key string) map[string]any {
	out := make(map[string]any, len(tree))
	for k, v := range tree {
		if k != key {
			out[k] = v
		}
	}
	return out
}

func decodeTree(spec json.RawMessage) (any, bool) {
	if len(spec) == 0 {
		return nil, true
	}
	dec := json.NewDecoder(bytes.NewReader(spec))
	dec.UseNumber()
	var tree any
	err := dec.Decode(&tree)
	return tree, err == nil
}

// diff appends the differences between two decoded values, objects key by key.
func diff(out *[]Change, path string, old, new any, depth int) {
	o, oldIs := old.(map[string]any)
	w, newIs := new.(map[string]any)
	if depth >= maxDepth || !(oldIs && newIs || oldIs && new == nil && len(o) > 0 || newIs && old == nil && len(w) > 0) {
		if !reflect.DeepEqual(old, new) {
			*out = append(*out, Change{Path: path, Old: old, New: new})
		}
		return
	}
	keys := make([]string, 0, len(o)+len(w))
	for k := range o {
		keys = append(keys, k)
	}
	for k := range w {
		if _, both := o[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		at := k
		if path != "" {
			at = path + "." + k
		}
		diff(out, at, o[k], w[k], depth+1)
	}
}

// fileChanges compares the files two units use, by path.
func fileChanges(old, new []FileHash) []Change {
	was := map[string]string{}
	for _, f := range old {
		was[f.Path] = f.Hash
	}
	var out []Change
	for _, f := range new {
		hash, had := was[f.Path]
		delete(was, f.Path)
		switch {
		case !had:
			out = append(out, Change{Path: "file " + f.Path, New: Short(f.Hash)})
		case hash != f.Hash:
			out = append(out, Change{Path: "file " + f.Path, Old: Short(hash), New: Short(f.Hash)})
		}
	}
	for path, hash := range was {
		out = append(out, Change{Path: "file " + path, Old: Short(hash)})
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// mentionsSecret reports whether a value contains the name of a secret. Its value is not there to be shown.
func (m *maker) mentionsSecret(v any) bool {
	switch v := v.(type) {
	case string:
		for _, name := range Names(v) {
			if m.d.Known[name] {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, m.mentionsSecret)
	case map[string]any:
		for _, x := range v {
			if m.mentionsSecret(x) {
				return true
			}
		}
	}
	return false
}

// observed redacts what an agent saw on a container that is not ours: its values need not stand in Git. Where
// they may hold a secret, the old value is not shown and the new one is the declaration's.
func (n *node) observed(u *Unit, seen []Change) []Change {
	tree, _ := decodeTree(u.Spec)
	out := make([]Change, 0, len(seen))
	for _, ch := range seen {
		path := ch.Path
		if rest, ok := strings.CutPrefix(path, "services."+u.Service+"."); ok {
			path = rest
		}
		top, _, _ := strings.Cut(path, ".")
		switch top {
		case "image", "restart", "ports", "volumes", "mounts", "networks", "network", "network_mode", "user", "working_dir", "hostname":
		default:
			if ch.Old != nil {
				ch.Old = onHost
			}
			ch.New = lookup(tree, path)
		}
		ch.Path = n.path(u.Service, path)
		out = append(out, ch)
	}
	return out
}

// lookup finds a dotted path in a spec; the last key may hold dots itself.
func lookup(tree any, path string) any {
	at, ok := tree.(map[string]any)
	if !ok {
		return nil
	}
	for {
		if v, ok := at[path]; ok {
			return v
		}
		head, rest, more := strings.Cut(path, ".")
		next, ok := at[head].(map[string]any)
		if !more || !ok {
			return nil
		}
		at, path = next, rest
	}
}
