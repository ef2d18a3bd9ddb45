package sync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// binaries knows the files of [hub] agents_dir, and reads each once.
type binaries struct {
	mu   gosync.Mutex // guards sums
	sums map[string]summed
}

// A summed file is one whose SHA-256 was taken while it looked so.
type summed struct {
	size   int64
	at     time.Time
	sha256 string
}

// missing says of every binary that a Config's servers ask for why it cannot be had, by plan.BinaryName.
func (b *binaries) missing(dir string, c *schema.Config) map[string]string {
	out := make(map[string]string)
	for _, r := range c.Resources {
		sc, ok := r.Config.(*schema.ServerConfig)
		if !ok || r.Kind != schema.KindServer || r.Template || sc.AgentVersion == "" {
			continue
		}
		for platform, sum := range sc.AgentSHA256 {
			name := plan.BinaryName(sc.AgentVersion, platform)
			if _, err := b.find(dir, name, sum); err != nil {
				out[name] = err.Error()
			}
		}
	}
	return out
}

// find is the size of a binary that is there and is what the commit says.
func (b *binaries) find(dir, name, sum string) (int64, error) {
	if dir == "" {
		return 0, errors.New("varan.toml names no [hub] agents_dir to take it from")
	}
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("agents_dir holds no %s", name)
	case err != nil:
		return 0, fmt.Errorf("look for %s in agents_dir: %w", name, err)
	case !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > protocol.MaxBinary:
		return 0, fmt.Errorf("%s in agents_dir is no binary of at most %d MiB", name, protocol.MaxBinary>>20)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.sums[path]
	if !ok || s.size != info.Size() || !s.at.Equal(info.ModTime()) {
		s = summed{size: info.Size(), at: info.ModTime()}
		if s.sha256, err = sumFile(path); err != nil {
			return 0, fmt.Errorf("read %s in agents_dir: %w", name, err)
		}
		if b.sums == nil || len(b.sums) > 1000 {
			b.sums = make(map[string]summed)
		}
		b.sums[path] = s
	}
	if s.sha256 != sum {
		return 0, fmt.Errorf("%s in agents_dir has the SHA-256 %s, and agent_sha256 says %s", name, s.sha256, sum)
	}
	return s.size, nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, protocol.MaxBinary+1)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// payload is what the update of a server's agent brings along. What the agent is now says which binary it needs.
func (b *binaries) payload(dir string, step *plan.Step, state *plan.State, c *schema.Config) (*protocol.Payload, error) {
	server := state.Servers[step.Server]
	if server == nil || server.Agent == nil {
		return nil, fmt.Errorf("it is not known which program the agent of %s is", step.Server)
	}
	sc, platform := serverConfig(c, step.Server), server.Agent.Platform
	name, sum := plan.BinaryName(sc.AgentVersion, platform), sc.AgentSHA256[platform]
	size, err := b.find(dir, name, sum)
	if err != nil {
		return nil, err
	}
	return &protocol.Payload{Agent: &protocol.Binary{
		Version: sc.AgentVersion, Platform: platform, SHA256: sum, Size: size, Whole: fileAt(filepath.Join(dir, name)),
	}}, nil
}

// fileAt is a file that is open only while it is read.
type fileAt string

// ReadAt opens the file anew.
func (path fileAt) ReadAt(p []byte, off int64) (int, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}
