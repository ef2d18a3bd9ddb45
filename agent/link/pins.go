package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

// pins are the fleet keys this agent obeys: the one it was started with, or what that one named its successor since.
// While the fleet's key is being changed there are two; the first order under the newer ends the older.
type pins struct {
	path string   // "" = in memory only
	base string   // the key the agent was started with
	keys []string // newest last
}

// openPins reads what became of the key the agent is started with. Started with another one it forgets the rest:
// whoever may set that has the last word.
func openPins(path, started string) (pins, error) {
	p := pins{path: path, base: started, keys: []string{started}}
	if !nkeys.IsValidPublicUserKey(started) {
		return p, fmt.Errorf("the fleet's key %q is no public key (U…)", started)
	}
	if path == "" {
		return p, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read fleet key: %w", err)
	}
	lines := strings.Fields(string(data))
	for _, l := range lines {
		if !nkeys.IsValidPublicUserKey(l) {
			return p, fmt.Errorf("read fleet key: %s is damaged; remove it and start the agent with the fleet's present key", path)
		}
	}
	if len(lines) > 1 && (lines[0] == started || slices.Contains(lines[1:], started)) {
		p.keys = lines[1:]
	}
	return p, nil
}

// has reports whether key is the fleet's; an order under the newest ends the others.
func (p *pins) has(key string) (bool, error) {
	i := slices.Index(p.keys, key)
	if i < 0 {
		return false, nil
	}
	if i == len(p.keys)-1 && i > 0 {
		if err := p.keep(p.keys[i:]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// follow takes in the key that the present one names as its successor.
func (p *pins) follow(by, next string) error {
	if !nkeys.IsValidPublicUserKey(next) {
		return fmt.Errorf("the fleet's next key %q is no public key", next)
	}
	if by == next || slices.Contains(p.keys, next) {
		return nil
	}
	return p.keep([]string{by, next})
}

func (p *pins) keep(keys []string) error {
	if p.path != "" {
		if err := replace(p.path, p.base+"\n"+strings.Join(keys, "\n")+"\n"); err != nil {
			return fmt.Errorf("keep fleet key: %w", err)
		}
	}
	p.keys = slices.Clone(keys)
	return nil
}
