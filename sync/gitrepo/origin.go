package gitrepo

import (
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/config"
)

// Origin is the address a local repository was cloned from, if it says so.
func Origin(at Address) (Address, bool) {
	if !at.Local() {
		return Address{}, false
	}
	l, err := findGit(at.Path)
	if err != nil {
		return Address{}, false
	}
	data, err := os.ReadFile(filepath.Join(l.common, "config"))
	if err != nil {
		return Address{}, false
	}
	c := config.NewConfig()
	if err := c.Unmarshal(data); err != nil {
		return Address{}, false
	}
	r := c.Remotes["origin"]
	if r == nil || len(r.URLs) == 0 {
		return Address{}, false
	}
	a, err := ParseAddress(r.URLs[0])
	return a, err == nil
}
