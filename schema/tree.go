package schema

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A node says where a key and its value stand. It mirrors the shape of the decoded value.
type node struct {
	key        string
	koff, klen int // the key, or a table's header
	voff, vlen int // the value; for a table its header
	kids       []*node
	index      map[string]*node // of kids, once they are many
}

// kid finds or makes the child of that key.
func (n *node) kid(t *tree, key []byte) (kid *node, isNew bool) {
	if n.index != nil {
		if k := n.index[string(key)]; k != nil {
			return k, false
		}
	} else {
		for i := len(n.kids) - 1; i >= 0; i-- {
			if n.kids[i].key == string(key) {
				return n.kids[i], false
			}
		}
	}
	k := t.new()
	k.key = t.intern(key)
	n.kids = append(n.kids, k)
	if n.index != nil {
		n.index[k.key] = k
	} else if len(n.kids) > 24 {
		n.index = make(map[string]*node, 2*len(n.kids))
		for _, k := range n.kids {
			n.index[k.key] = k
		}
	}
	return k, true
}

// A tree holds one file's nodes, made in blocks.
type tree struct {
	block []node
	names map[string]string
}

func (t *tree) new() *node {
	if len(t.block) == 0 {
		t.block = make([]node, 128)
	}
	n := &t.block[0]
	t.block = t.block[1:]
	return n
}

func (t *tree) intern(b []byte) string {
	if s, ok := t.names[string(b)]; ok {
		return s
	}
	s := string(b)
	t.names[s] = s
	return s
}

// places walks the text and notes where each key and value stands. It is only called with text that
// decodes; where it should differ from the decoder, positions are missing and nothing else.
func places(text []byte) *node {
	t := &tree{names: make(map[string]string, 64)}
	root := t.new()
	var p unstable.Parser
	p.Reset(text)
	table := root
	arrays := map[*node]bool{} // nodes that are arrays of tables: paths go through their last element
	into := func(n *node) *node {
		if arrays[n] && len(n.kids) > 0 {
			return n.kids[len(n.kids)-1]
		}
		return n
	}
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			n := root
			it := e.Key()
			off, end := -1, 0
			for it.Next() {
				k := it.Node()
				if off < 0 {
					off = int(k.Raw.Offset)
				}
				end = int(k.Raw.Offset + k.Raw.Length)
				kid, fresh := into(n).kid(t, k.Data)
				if fresh {
					kid.koff, kid.klen = off, end-off
					kid.voff, kid.vlen = off, end-off
				}
				n = kid
			}
			for off > 0 && text[off-1] != '\n' { // the header with its brackets
				off--
				if text[off] == '[' && (off == 0 || text[off-1] != '[') {
					break
				}
			}
			for end < len(text) && text[end] != '\n' && (text[end] == ']' || text[end] == ' ' || text[end] == '\t') {
				end++
				if text[end-1] == ']' && (end == len(text) || text[end] != ']') {
					break
				}
			}
			if e.Kind == unstable.ArrayTable {
				arrays[n] = true
				el := t.new()
				el.koff, el.klen, el.voff, el.vlen = off, end-off, off, end-off
				n.kids = append(n.kids, el)
				table = el
			} else {
				table = into(n)
				table.koff, table.klen, table.voff, table.vlen = off, end-off, off, end-off
			}
		case unstable.KeyValue:
			t.keyValue(table, e, &p, into)
		}
	}
	return root
}

func (t *tree) keyValue(table *node, e *unstable.Node, p *unstable.Parser, into func(*node) *node) {
	n := table
	it := e.Key()
	for it.Next() {
		k := it.Node()
		kid, fresh := n.kid(t, k.Data)
		if fresh {
			kid.koff, kid.klen = int(k.Raw.Offset), int(k.Raw.Length)
			kid.voff, kid.vlen = kid.koff, kid.klen
		}
		n = kid
	}
	t.value(n, e.Value(), p, into)
}

func (t *tree) value(n *node, v *unstable.Node, p *unstable.Parser, into func(*node) *node) {
	if v.Raw.Length > 0 {
		n.voff, n.vlen = int(v.Raw.Offset), int(v.Raw.Length)
	}
	switch v.Kind {
	case unstable.Array:
		it := v.Children()
		for it.Next() {
			c := it.Node()
			if c.Kind == unstable.Comment {
				continue
			}
			el := t.new()
			el.voff, el.vlen = n.voff, 0
			t.value(el, c, p, into)
			el.koff, el.klen = el.voff, el.vlen
			n.kids = append(n.kids, el)
		}
	case unstable.InlineTable:
		it := v.Children()
		for it.Next() {
			if c := it.Node(); c.Kind == unstable.KeyValue {
				t.keyValue(n, c, p, into)
			}
		}
	}
}

// decodeTOML reads the text of a file: its values, and where they stand.
func decodeTOML(s *source) (map[string]any, *node, *Diagnostic) {
	values, err := decode(string(s.text))
	if err != nil {
		return nil, nil, s.syntaxError(err)
	}
	return values, places(s.text), nil
}

// decode keeps a fault of the library, which strangers' bytes might find, from ending the process.
func decode(text string) (values map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	_, err = toml.Decode(text, &values)
	return values, err
}

// syntaxError turns the decoder's error into a Diagnostic in our words where it can.
func (s *source) syntaxError(err error) *Diagnostic {
	d := &Diagnostic{Severity: SeverityError, Pos: Pos{File: s.path, Line: 1, Column: 1}, Message: "not valid TOML: " + err.Error()}
	var pe toml.ParseError
	if e, ok := err.(toml.ParseError); ok {
		pe = e
	} else {
		return d
	}
	d.Pos = s.pos(pe.Position.Start)
	if from := max(0, min(pe.Position.Start, len(s.text))); pe.Position.Len > 0 {
		d.Length = min(pe.Position.Len, len(s.text)-from)
		if i := bytes.IndexAny(s.text[from:from+d.Length], "\r\n"); i >= 0 {
			d.Length = i
		}
		d.Length = s.fit(d.Pos, d.Length)
	}
	msg := pe.Message
	if msg == "" {
		msg = err.Error()
		if _, after, ok := strings.Cut(msg, ": "); ok {
			msg = after
		}
	}
	msg = strings.TrimSuffix(strings.TrimSpace(msg), ".")
	if rest, ok := strings.CutPrefix(msg, "Key "); ok {
		msg = "key " + rest
	}
	if s.unclosed >= 0 && strings.Contains(msg, "EOF") {
		d.Pos, d.Message = s.pos(s.unclosed), "not valid TOML: the string that begins here has no end"
		d.Length = s.fit(d.Pos, 3)
		return d
	}
	d.Message, d.Hint = "not valid TOML: "+msg, syntaxHint(msg)
	return d
}

// fit cuts a length to what is left of the line.
func (s *source) fit(p Pos, n int) int {
	if p.Line < 1 || p.Line > len(s.lines) {
		return 0
	}
	end := s.size
	if p.Line < len(s.lines) {
		end = s.lines[p.Line] - 1
	}
	return max(0, min(n, end-(s.lines[p.Line-1]+p.Column-1)))
}

// syntaxHint helps with the mistakes people make most.
func syntaxHint(msg string) string {
	for _, h := range []struct{ in, hint string }{
		{"cannot contain newlines", "close the quotes on the same line, or use three"},
		{"already been defined", "write each key of a table once"},
		{"already defined", "write each key of a table once"},
		{"expected value but found", "put quotes around text"},
		{"invalid escape", "write \\\\ for a backslash, or use single quotes"},
		{"expected '=' or", "a key is followed by = and its value"},
		{"unexpected EOF", "quotes or brackets are not closed"},
		{"leading zeroes", "put quotes around it"},
	} {
		if strings.Contains(strings.ToLower(msg), strings.ToLower(h.in)) {
			return h.hint
		}
	}
	return ""
}
