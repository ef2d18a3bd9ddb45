package gitrepo_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

// TestPack: a pull request's merge comes over as bytes, and its files are the very ones Git made.
func TestPack(t *testing.T) {
	repo := gittest.New(t)
	base := repo.Push(map[string]string{"a.toml": "one", "dir/b": "two"})
	repo.Git("checkout", "-q", "-b", "feature")
	head := repo.Commit(map[string]string{"dir/c": "three"})
	repo.Git("checkout", "-q", "main")
	repo.Git("merge", "-q", "--no-ff", "-m", "merge", "feature")
	merge := repo.Head()
	repo.Git("push", "-q", "--force", repo.Bare, merge+":refs/pull/7/merge", head+":refs/pull/7/head")
	srv := repo.Serve(false)
	addr, err := gitrepo.ParseAddress(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	r, err := gitrepo.Open(addr, gitrepo.Options{AllowHTTP: true, AllowInternal: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx := context.Background()
	refs, err := r.Refs(ctx, "refs/pull/7/merge", "refs/pull/7/head", "refs/pull/8/head", "main")
	if err != nil {
		t.Fatal(err)
	}
	if len(refs) != 3 || refs["refs/pull/7/merge"] != merge || refs["refs/pull/7/head"] != head || refs["main"] != base {
		t.Fatalf("the refs are %v", refs)
	}
	var pack bytes.Buffer
	if err := r.Pack(ctx, "refs/pull/7/merge", merge, &pack, 1<<20); err != nil {
		t.Fatal(err)
	}
	snap, parents, err := gitrepo.Unpack(bytes.NewReader(pack.Bytes()), t.TempDir(), merge)
	if err != nil {
		t.Fatal(err)
	}
	if len(parents) != 2 || parents[0] != base || parents[1] != head {
		t.Errorf("the parents are %v", parents)
	}
	var got []string
	if err := snap.Walk(".", func(e compose.Entry) error { got = append(got, e.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0] != "a.toml" || got[2] != "dir/c" {
		t.Errorf("the files are %v", got)
	}
	if tree := repo.Git("rev-parse", merge+"^{tree}"); snap.ID() != tree[:40] {
		t.Errorf("the tree is %s, Git says %s", snap.ID(), tree)
	}
	if err := r.Pack(ctx, "refs/pull/7/head", merge, &pack, 1<<20); !errors.Is(err, gitrepo.ErrMoved) {
		t.Errorf("another commit than asked for: %v", err)
	}
	if err := r.Pack(ctx, "refs/pull/7/merge", merge, &pack, 100); !errors.Is(err, gitrepo.ErrTooBig) {
		t.Errorf("a pack beyond its bound: %v", err)
	}
	if _, _, err := gitrepo.Unpack(bytes.NewReader(pack.Bytes()[:20]), t.TempDir(), merge); err == nil {
		t.Error("half a pack was taken")
	}
}
