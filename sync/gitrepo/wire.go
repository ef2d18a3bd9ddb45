package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/varanhq/varan/sync/dial"
)

// What a remote may answer, so that callers can tell them apart. None of them means "the branch is empty".
var (
	ErrAuth     = errors.New("the remote does not accept the credential")
	ErrNotFound = errors.New("the remote knows no such repository")
	ErrEmpty    = errors.New("the repository has no commit yet")
	ErrNoBranch = errors.New("no such branch")
	ErrTooBig   = errors.New("larger than allowed")
)

// ErrRefused marks a connection our own rules forbid.
var ErrRefused = dial.ErrRefused

// A transport reaches one remote. A conversation holds the advertised refs and may be asked for one pack.
type transport interface {
	open(ctx context.Context) (conversation, error)
	close()
}

type conversation interface {
	refs() *packp.AdvRefs
	// pack sends the request and returns the undecoded answer; Close ends the conversation.
	pack(ctx context.Context, req *packp.UploadPackRequest) (io.ReadCloser, error)
	close()
}

// A want is one fetch: the commits wanted, those already here, and where our history is cut.
type want struct {
	commits  []plumbing.Hash
	haves    []plumbing.Hash
	shallows []plumbing.Hash
	depth    int // 0: no cut beyond ours
}

// request translates a want, asking only for what the remote offers. Thin packs and multi_ack are left out:
// go-git's pack writer needs whole packs, and a few haves need no negotiation.
func (w want) request(offered *capability.List) (*packp.UploadPackRequest, error) {
	req := packp.NewUploadPackRequest()
	for _, c := range []capability.Capability{capability.Sideband64k, capability.OFSDelta, capability.NoProgress} {
		if offered.Supports(c) {
			if err := req.Capabilities.Set(c); err != nil {
				return nil, fmt.Errorf("ask for %s: %w", c, err)
			}
		}
	}
	if w.depth > 0 || len(w.shallows) > 0 {
		if !offered.Supports(capability.Shallow) {
			if len(w.shallows) > 0 {
				return nil, errors.New("the remote stopped offering shallow fetches")
			}
			w.depth = 0
		} else if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return nil, fmt.Errorf("ask for shallow: %w", err)
		}
	}
	req.Wants, req.Haves, req.Shallows, req.Depth = w.commits, w.haves, w.shallows, packp.DepthCommits(w.depth)
	return req, nil
}

// encode writes a request and the "done" that ends our side of the talk.
func encode(out io.Writer, req *packp.UploadPackRequest) error {
	if err := req.UploadRequest.Encode(out); err != nil {
		return err
	}
	if err := req.UploadHaves.Encode(out, false); err != nil {
		return err
	}
	return pktline.NewEncoder(out).EncodeString("done\n")
}

// receive decodes the answer to a request and stores its pack, after telling cut where history ends now.
func receive(body io.ReadCloser, req *packp.UploadPackRequest, into gitStorage, maxPack int64, cut func(packp.ShallowUpdate) error) error {
	answer := packp.NewUploadPackResponse(req)
	if err := answer.Decode(body); err != nil {
		return fmt.Errorf("read the remote's answer: %w", err)
	}
	if !req.Depth.IsZero() {
		if err := cut(answer.ShallowUpdate); err != nil {
			return fmt.Errorf("keep where history is cut: %w", err)
		}
	}
	var pack io.Reader = answer
	if req.Capabilities.Supports(capability.Sideband64k) {
		pack = sideband.NewDemuxer(sideband.Sideband64k, answer)
	}
	if err := packfile.UpdateObjectStorage(into, &bounded{r: pack, left: maxPack}); err != nil && !errors.Is(err, packfile.ErrEmptyPackfile) {
		return fmt.Errorf("store the remote's pack: %w", err)
	}
	return nil
}

// bounded fails, instead of ending quietly as io.LimitReader does, when more comes than is left.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: the pack", ErrTooBig)
	}
	return n, err
}

// advertised decodes the refs of a remote. An empty repository is ErrEmpty.
func advertised(r io.Reader, limit int64) (*packp.AdvRefs, error) {
	refs := packp.NewAdvRefs()
	err := refs.Decode(&bounded{r: r, left: limit})
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs):
		return nil, ErrEmpty
	case err != nil:
		return nil, fmt.Errorf("read the remote's refs: %w", err)
	case len(refs.References) == 0:
		return nil, ErrEmpty
	}
	return refs, nil
}

// resolve finds a branch (or, with a full name, any ref) among the advertised ones; "" is what HEAD names.
func resolve(refs *packp.AdvRefs, branch string) (string, plumbing.Hash, error) {
	if branch == "" {
		for _, s := range refs.Capabilities.Get(capability.SymRef) {
			if name, ok := cutPrefix(s, "HEAD:refs/heads/"); ok {
				branch = name
			}
		}
		if branch == "" && refs.Head != nil {
			return "HEAD", *refs.Head, nil
		}
	}
	for _, name := range []string{"refs/heads/" + branch, branch} {
		if h, ok := refs.References[name]; ok {
			return branch, h, nil
		}
	}
	var has []string
	for name := range refs.References {
		if b, ok := cutPrefix(name, "refs/heads/"); ok {
			has = append(has, b)
		}
	}
	return branch, plumbing.ZeroHash, noBranch(branch, has)
}

// noBranch names the branches that are there, as someone whose main branch has another name needs them.
func noBranch(branch string, has []string) error {
	const few = 3
	slices.Sort(has)
	there := "it has none"
	if n := len(has); n > 0 {
		var names []string
		for _, b := range has[:min(n, few)] {
			names = append(names, strconv.Quote(b))
		}
		there = "it has " + strings.Join(names, ", ")
		if n > few {
			there += fmt.Sprintf(" and %d more", n-few)
		}
	}
	return fmt.Errorf("%w: %q (%s): --branch, or branch in varan.toml, says which to follow", ErrNoBranch, branch, there)
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return "", false
}
