package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/plan"
)

// hostFileLimit bounds how much of a host file is read for its fingerprint.
const hostFileLimit = 64 << 20

// statOf is what tells that a file need not be read again.
func statOf(fi fs.FileInfo) laid {
	l := laid{Size: fi.Size(), Mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		l.Inode = st.Ino
	}
	return l
}

// openRegular opens a regular file without waiting on what is none: a FIFO or device is refused, not read.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("open %s: it is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// absent is the fingerprint of a file that is not there: it may come to be.
const absent = "absent"

// fingerprint is a host file's, under this agent's own key: what a host file says may be secret.
func (a *Agent) fingerprint(path string) laid {
	f, fi, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return laid{Hash: absent}
	}
	if err != nil {
		return laid{Hash: "unreadable"}
	}
	defer f.Close()
	l := statOf(fi)
	data, err := io.ReadAll(io.LimitReader(f, hostFileLimit))
	if err != nil {
		return laid{Hash: "unreadable"}
	}
	l.Hash = a.prints.of("file", path, string(data))
	return l
}

func (a *Agent) fingerprints(paths []string) map[string]laid {
	if len(paths) == 0 {
		return nil
	}
	out := map[string]laid{}
	for _, p := range paths {
		out[p] = a.fingerprint(p)
	}
	return out
}

// hostFilesChanged names the host files that are not as they were when the resource was applied. One that is not
// in the ledger is taken as it is.
func (a *Agent) hostFilesChanged(rec *record, paths []string) []string {
	var changed []string
	learned := map[string]laid{}
	for _, p := range paths {
		old, ok := rec.Hosts[p]
		if !ok {
			if rec.Entry != nil {
				learned[p] = a.fingerprint(p)
			}
			continue
		}
		if fi, err := os.Stat(p); err == nil && old.Inode != 0 {
			now := statOf(fi)
			if now.Size == old.Size && now.Mtime == old.Mtime && now.Inode == old.Inode {
				continue
			}
		}
		if now := a.fingerprint(p); now.Hash != old.Hash {
			changed = append(changed, p)
		} else if now.Inode != 0 {
			learned[p] = now // same content, other times
		}
	}
	if len(learned) > 0 {
		if err := a.ledger.learnHosts(rec.Resource, rec.Hosts, learned); err != nil {
			a.log.Warn("remember host files", "resource", rec.Resource, "err", err)
		}
	}
	return changed
}

// missingBinds are the declared bind sources that are not on the host; st is nil for a deployment.
func missingBinds(binds []plan.Bind, st *stack.Stack) []string {
	var out []string
	for _, b := range binds {
		p := b.Source
		switch {
		case st != nil:
			p = st.Source(b)
		case !filepath.IsAbs(p):
			continue
		}
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) && !slices.Contains(out, b.Source) {
			out = append(out, b.Source)
		}
	}
	return out
}
