package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
)

// Refs asks which commits the named refs ("refs/pull/1/merge", or a branch's name) stand at now; those that are not
// there are left out. One question, whatever their number.
func (r *Repo) Refs(ctx context.Context, names ...string) (map[string]string, error) {
	out := make(map[string]string, len(names))
	if r.local != nil {
		for _, name := range names {
			if h, err := r.local.tip(name); err == nil {
				out[name] = h.Commit
			}
		}
		return out, nil
	}
	talk, err := r.remote().open(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", r.addr, err)
	}
	defer talk.close()
	for _, name := range names {
		if _, h, err := resolve(talk.refs(), name); err == nil {
			out[name] = h.String()
		}
	}
	return out, nil
}

// Branches asks where the branches stand whose names begin with prefix.
func (r *Repo) Branches(ctx context.Context, prefix string) (map[string]string, error) {
	out := map[string]string{}
	if r.local != nil {
		return out, nil
	}
	talk, err := r.remote().open(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", r.addr, err)
	}
	defer talk.close()
	for name, h := range talk.refs().References {
		if branch, ok := strings.CutPrefix(name, "refs/heads/"); ok && strings.HasPrefix(branch, prefix) {
			out[branch] = h.String()
		}
	}
	return out, nil
}

// Pack writes the pack of one commit's files, as the remote sends it and without looking into it, to w: what a
// stranger put into it is nobody's matter here. ref is a branch's or a full name, and commit what it must stand at.
// More than max bytes are ErrTooBig. Nothing is kept.
func (r *Repo) Pack(ctx context.Context, ref, commit string, w io.Writer, max int64) error {
	if r.local != nil {
		return fmt.Errorf("%w: %s: only a remote sends packs", ErrRefused, r.addr)
	}
	talk, err := r.remote().open(ctx)
	if err != nil {
		return fmt.Errorf("ask %s: %w", r.addr, err)
	}
	defer talk.close()
	name, h, err := resolve(talk.refs(), ref)
	if err != nil {
		return fmt.Errorf("ask %s: %w", r.addr, err)
	}
	if h.String() != commit {
		return fmt.Errorf("ask %s: %s: %w", r.addr, name, ErrMoved)
	}
	req, err := want{commits: []plumbing.Hash{h}, depth: 1}.request(talk.refs().Capabilities)
	if err != nil {
		return err
	}
	body, err := talk.pack(ctx, req)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", r.addr, err)
	}
	defer body.Close()
	answer := packp.NewUploadPackResponse(req)
	if err := answer.Decode(body); err != nil {
		return fmt.Errorf("fetch %s: read the answer: %w", r.addr, err)
	}
	var pack io.Reader = answer
	if req.Capabilities.Supports(capability.Sideband64k) {
		pack = sideband.NewDemuxer(sideband.Sideband64k, answer)
	}
	if _, err := io.Copy(w, &bounded{r: pack, left: max}); err != nil {
		return fmt.Errorf("fetch %s: %w", r.addr, err)
	}
	return nil
}

// ErrMoved: a ref no longer stands where it was said to.
var ErrMoved = errors.New("the ref moved meanwhile")

// Unpack reads a pack that Pack wrote into the empty folder dir and gives the commit's files, with the parents that
// the commit names. It inflates what a stranger wrote: only a process that may die of it should call it.
func Unpack(pack io.Reader, dir, commit string) (s *Snapshot, parents []string, err error) {
	if !plumbing.IsHash(commit) {
		return nil, nil, fmt.Errorf("%q is not a full commit id", commit)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("unpack: %w", err)
	}
	git, err := mirrorStorage(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := packfile.UpdateObjectStorage(git, pack); err != nil {
		return nil, nil, fmt.Errorf("unpack: %w", err)
	}
	st := newStore(git)
	h := plumbing.NewHash(commit)
	_, info, err := st.commit(h)
	if err != nil {
		return nil, nil, fmt.Errorf("unpack: read commit %s: %w", commit, err)
	}
	for _, p := range info.parents {
		parents = append(parents, p.String())
	}
	s, err = newSnapshot(st, h, "")
	return s, parents, err
}
