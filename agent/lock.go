package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockRoot makes sure that no other agent works in this root.
func (a *Agent) lockRoot() error {
	who, err := a.lock(filepath.Join(a.opts.Root, "lock"))
	if err != nil {
		return fmt.Errorf("lock agent root: %w", err)
	}
	if who != "" {
		return fmt.Errorf("lock agent root %s: another agent works there (%s)", a.opts.Root, who)
	}
	return nil
}

// locksDir holds the locks of engines: a folder that all processes of a machine see, whatever network they are in.
const locksDir = "/run/varan"

// lockEngine makes sure that no other agent of this fleet works on the engine. Fleets do not shut each other out: each
// touches what bears its own label.
func (a *Agent) lockEngine(engine string) error {
	dir := locksDir
	if os.Geteuid() != 0 {
		dir = filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), os.TempDir()), fmt.Sprintf("varan-%d", os.Geteuid()))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("lock the Docker engine: %w", err)
	}
	sum := sha256.Sum256([]byte(a.opts.Fleet + "\x00" + engine))
	who, err := a.lock(filepath.Join(dir, "engine-"+hex.EncodeToString(sum[:12])))
	if err != nil {
		return fmt.Errorf("lock the Docker engine: %w", err)
	}
	if who != "" {
		return fmt.Errorf("another agent of fleet %q works on this Docker engine: %s", a.opts.Fleet, who)
	}
	return nil
}

// lock takes a file for this process until it ends, however that happens. Who is what its holder says of itself, if
// somebody else has it.
func (a *Agent) lock(path string) (who string, err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return "", err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == syscall.EWOULDBLOCK {
			said, _ := io.ReadAll(io.LimitReader(f, 500))
			f.Close()
			return cmp.Or(strings.TrimSpace(string(said)), "it does not say which"), nil
		} else if err != nil {
			f.Close()
			return "", fmt.Errorf("lock %s: %w", path, err)
		}
		if !stands(f, path) { // its holder removed it as it ended
			f.Close()
			continue
		}
		a.locks = append(a.locks, f)
		host, _ := os.Hostname() // a container's, when the process is in one
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintf(f, "process %d on %s with root %s, of fleet %s\n", os.Getpid(), host, a.opts.Root, a.opts.Fleet)
		}
		return "", err
	}
}

// stands reports whether f still is the file at path.
func stands(f *os.File, path string) bool {
	there, err := os.Lstat(path)
	if err != nil {
		return false
	}
	ours, err := f.Stat()
	return err == nil && os.SameFile(there, ours)
}
