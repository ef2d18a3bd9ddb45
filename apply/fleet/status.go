package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

// Status is how the connections stand.
type Status struct {
	Key    string        `json:"key"`              // the fleet's, public: what agents are started with
	Listen string        `json:"listen,omitempty"` // where agents connect over TLS; "" = nowhere
	Agents []AgentStatus `json:"agents"`
	// Cluster is where daemons and agents meet instead; Trouble what is wrong with it.
	Cluster string   `json:"cluster,omitempty"`
	Trouble []string `json:"trouble,omitempty"`
	// Waiting are agents whose keys no commit enrols, or that were revoked.
	Waiting []Waiting `json:"waiting"`
	Revoked []string  `json:"revoked,omitempty"`
	// Rotation is there while the fleet's key is being changed.
	Rotation *Rotation `json:"rotation,omitempty"`
}

// AgentStatus is one enrolled agent.
type AgentStatus struct {
	Server    string     `json:"server"`
	Key       string     `json:"key"`
	Connected bool       `json:"connected"`
	From      netip.Addr `json:"from,omitzero"`
	Revoked   bool       `json:"revoked,omitempty"` // by hand, though a commit still holds the key
}

// Status tells how the connections stand, by the names of the servers. This process's own agent is not listed.
func (h *Hub) Status() Status {
	st := Status{Key: h.FleetKey(), Agents: []AgentStatus{}, Waiting: h.Waiting()}
	if h.addr != nil {
		st.Listen = h.addr.String()
	}
	if h.opts.Cluster != nil {
		st.Cluster, st.Trouble = h.opts.Cluster.URL, h.Trouble()
	}
	if r := h.Rotation(); r.Next != "" {
		st.Rotation = &r
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, server := range h.enrolled {
		a := AgentStatus{Server: server, Key: key, Revoked: h.revoked[key]}
		a.From, a.Connected = h.front.connected(key)
		st.Agents = append(st.Agents, a)
	}
	slices.SortFunc(st.Agents, func(a, b AgentStatus) int { return strings.Compare(a.Server, b.Server) })
	st.Revoked = slices.Sorted(maps.Keys(h.revoked))
	if st.Waiting == nil {
		st.Waiting = []Waiting{}
	}
	return st
}

// revokedFile lies beside the fleet's key and not in data_dir: deleting the latter lets nobody back in.
func (h *Hub) revokedFile() string {
	if h.opts.KeyFile == "" {
		return ""
	}
	return h.opts.KeyFile + ".revoked"
}

// readRevoked reads the keys locked out by hand.
func (h *Hub) readRevoked() error {
	path := h.revokedFile()
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read revoked keys: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		key := strings.TrimSpace(lines.Text())
		if key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		if !nkeys.IsValidPublicUserKey(key) {
			return fmt.Errorf("read revoked keys: %s holds %q, which is no public key; a damaged list would let somebody in", path, key)
		}
		h.revoked[key] = true
	}
	return lines.Err()
}

// Revoke locks an agent out at once, by its public key, whatever is committed; off takes it back. It is kept on disk
// before it counts. Taking the key out of the repository is what makes it final.
func (h *Hub) Revoke(key string, off bool) error {
	if !nkeys.IsValidPublicUserKey(key) {
		return fmt.Errorf("revoke: %q is no public key of an agent (U…)", key)
	}
	if key == h.opts.Own || key == h.FleetKey() {
		return errors.New("revoke: that is the daemon's own key")
	}
	if !h.leads() {
		return fmt.Errorf("revoke: %w; ask the one that does", errFollows)
	}
	h.mu.Lock()
	if h.revoked[key] != off {
		h.mu.Unlock()
		return nil
	}
	next := maps.Clone(h.revoked)
	if off {
		delete(next, key)
	} else {
		next[key] = true
	}
	if err := writeRevoked(h.revokedFile(), next); err != nil {
		h.mu.Unlock()
		return err
	}
	h.revoked = next
	delete(h.waiting, key)
	gone := h.admit()
	h.mu.Unlock()
	for _, key := range gone {
		h.disconnect(key)
	}
	h.passOn()
	return nil
}

func writeRevoked(path string, keys map[string]bool) error {
	if path == "" {
		return nil
	}
	text := "# Agents locked out by varan agent revoke. One public key a line.\n" + strings.Join(append(slices.Sorted(maps.Keys(keys)), ""), "\n")
	f, err := os.CreateTemp(filepath.Dir(path), ".revoked-")
	if err != nil {
		return fmt.Errorf("keep revoked keys: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep revoked keys: %w", err)
	}
	return nil
}
