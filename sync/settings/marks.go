package settings

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/varanhq/varan/schema"
)

// A mark is where a key stands.
type mark struct{ pos schema.Pos }

// marks walks the same bytes the decoder reads and notes where each dotted key stands first. What does not
// parse ends the walk: the decoder says what is wrong with it.
func marks(file string, data []byte) map[string]mark {
	m := map[string]mark{}
	var p unstable.Parser
	p.Reset(data)
	note := func(path string, at int) {
		if _, ok := m[path]; ok {
			return
		}
		before := data[:at]
		line := 1 + strings.Count(string(before), "\n")
		col := at - (strings.LastIndexByte(string(before), '\n') + 1) + 1
		m[path] = mark{schema.Pos{File: file, Line: line, Column: col}}
	}
	var walk func(prefix string, kv *unstable.Node)
	inline := func(path string, v *unstable.Node) {
		switch v.Kind {
		case unstable.InlineTable:
			for it := v.Children(); it.Next(); {
				walk(path, it.Node())
			}
		case unstable.Array:
			for it := v.Children(); it.Next(); {
				if e := it.Node(); e.Kind == unstable.InlineTable {
					for kv := e.Children(); kv.Next(); {
						walk(path, kv.Node())
					}
				}
			}
		}
	}
	join := func(prefix string, it unstable.Iterator) string {
		path := prefix
		for it.Next() {
			k := it.Node()
			path = strings.TrimPrefix(path+"."+string(k.Data), ".")
			note(path, int(k.Raw.Offset))
		}
		return path
	}
	walk = func(prefix string, kv *unstable.Node) {
		inline(join(prefix, kv.Key()), kv.Value())
	}
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = join("", e.Key())
		case unstable.KeyValue:
			walk(table, e)
		}
	}
	return m
}
