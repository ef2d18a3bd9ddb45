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

// TestOf: what was taken over as it ran, or under another name, stands for its resource like what was made for it; what
// somebody else declares, or nobody took over, does not.
func TestOf(t *testing.T) {
	entry := func(id schema.ID, e Entry) *Entry { e.Resource, e.Fleet = id, "f"; return &e }
	units := []Unit{{Service: "d", Container: "called"}}
	for _, c := range []struct {
		name   string
		id     schema.ID
		was    schema.ID
		c      Container
		ledger []*Entry
		want   bool
	}{
		{"labelled", "stack/s", "", Container{Resource: "stack/s", Fleet: "f"}, nil, true},
		{"of another fleet", "stack/s", "", Container{Resource: "stack/s", Fleet: "g"}, nil, false},
		{"half done", "stack/s", "", Container{Resource: "stack/s", Fleet: "f", Leftover: "backup"}, nil, false},
		{"former name", "stack/s", "", Container{Resource: "stack/o", Fleet: "f"}, []*Entry{entry("stack/s", Entry{Was: "stack/o"})}, true},
		{"former name declared anew", "stack/s", "", Container{Resource: "stack/o", Fleet: "f"}, []*Entry{entry("stack/s", Entry{Was: "stack/o"}), entry("stack/o", Entry{})}, false},
		{"former name, ledger lost", "stack/s", "stack/o", Container{Resource: "stack/o", Fleet: "f"}, nil, true},
		{"former name, not taken over yet", "stack/s", "stack/o", Container{Resource: "stack/o", Fleet: "f"}, []*Entry{entry("stack/o", Entry{})}, true},
		{"former name, of another fleet", "stack/s", "stack/o", Container{Resource: "stack/o", Fleet: "g"}, nil, false},
		{"adopted project", "stack/s", "", Container{ID: "x", Project: "p"}, []*Entry{entry("stack/s", Entry{Adopted: true, Project: "p"})}, true},
		{"adopted by id", "stack/s", "", Container{ID: "x", Project: "p"}, []*Entry{entry("stack/s", Entry{Adopted: true, Project: "p", Containers: []string{"x"}})}, true},
		{"another container", "stack/s", "", Container{ID: "y", Project: "p"}, []*Entry{entry("stack/s", Entry{Adopted: true, Project: "p", Containers: []string{"x"}})}, false},
		{"another project", "stack/s", "", Container{ID: "x", Project: "q"}, []*Entry{entry("stack/s", Entry{Adopted: true, Project: "p"})}, false},
		{"not adopted", "stack/s", "", Container{ID: "x", Project: "p"}, []*Entry{entry("stack/s", Entry{Project: "p"})}, false},
		{"adopted deployment", "deployment/d", "", Container{Name: "called"}, []*Entry{entry("deployment/d", Entry{Adopted: true, Units: units})}, true},
		{"its name in a project", "deployment/d", "", Container{Name: "called", Project: "p"}, []*Entry{entry("deployment/d", Entry{Adopted: true, Units: units})}, false},
		{"nobody's", "deployment/d", "", Container{Name: "called"}, nil, false},
	} {
		s := ServerState{Containers: []Container{c.c}, Ledger: map[schema.ID]*Entry{}}
		for _, e := range c.ledger {
			s.Ledger[e.Resource] = e
		}
		if got := len(s.Of(c.id, c.was, "f")) == 1; got != c.want {
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
