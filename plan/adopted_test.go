package plan

import (
	"testing"

	"github.com/varanhq/varan/schema"
)

// TestTook: an adoption is of containers, not of whatever stands under their names.
func TestTook(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry Entry
		want  bool
	}{
		{"not adopted", Entry{Containers: []string{"a"}}, false},
		{"the one adopted", Entry{Adopted: true, Containers: []string{"a", "b"}}, true},
		{"another", Entry{Adopted: true, Containers: []string{"b"}}, false},
		{"not recorded", Entry{Adopted: true}, true},
	} {
		if got := c.entry.took(&Container{ID: "a"}); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestMovedFolder: the folder a service uses is told by its own container, else by the ledger.
func TestMovedFolder(t *testing.T) {
	old := &Container{Service: "a", WorkDir: "/old"}
	for _, c := range []struct {
		name   string
		pinned string
		facts  Facts
		owned  []*Container
		entry  *Entry
		want   string
	}{
		{"same", "", Facts{Place: "/old"}, []*Container{old}, nil, ""},
		{"other place", "", Facts{Place: "/new"}, []*Container{old}, nil, "/old"},
		{"pinned, ledger lost", "/new", Facts{Place: "/new", Directory: "/new"}, []*Container{old}, nil, "/old"},
		{"another service moved before", "/new", Facts{Place: "/new"}, []*Container{old}, &Entry{Directory: "/new"}, "/old"},
		{"no container, the ledger knows", "/new", Facts{Place: "/new"}, nil, &Entry{Directory: "/old"}, "/old"},
		{"nothing known", "/new", Facts{Place: "/new"}, nil, nil, ""},
	} {
		n := &node{res: &schema.Resource{Kind: schema.KindStack, Config: &schema.StackConfig{Directory: c.pinned}}, decl: &Declared{}, owned: c.owned, entry: c.entry}
		if got, moved := n.movedFolder(&c.facts, "a"); got != c.want || moved != (c.want != "") {
			t.Errorf("%s: %q %v, want %q", c.name, got, moved, c.want)
		}
	}
}
