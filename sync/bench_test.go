package sync

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

type silent struct{}

func (silent) Report(context.Context, Report) {}

// big is a syncer on a repository like the workload of the speed figures, read and planned once.
func big(b *testing.B) (*syncer, *gittest.Repo) {
	b.Helper()
	g := gittest.New(b)
	g.Big(1000, 4000)
	h := newHost()
	opts := options(b, h, g.Serve(false).URL())
	opts.Log, opts.Reporter = slog.New(slog.NewTextHandler(io.Discard, nil)), silent{}
	d, err := New(opts)
	if err != nil {
		b.Fatal(err)
	}
	s := d.root.syncer
	once(b, s, triggerCommit)
	return s, g
}

func once(b *testing.B, s *syncer, trigger string) *plan.Plan {
	b.Helper()
	v, err := s.src.fetch(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	p, res, err := s.run(b.Context(), v, job{trigger: trigger})
	if err != nil || res == nil {
		b.Fatal(err, p.Diagnostics)
	}
	return p
}

// BenchmarkNothingNew is a poll that finds the branch as it was.
func BenchmarkNothingNew(b *testing.B) {
	s, _ := big(b)
	b.ResetTimer()
	for b.Loop() {
		if _, err := s.src.fetch(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnrelatedCommit is a commit that touches nothing of ours, from the poll to the end.
func BenchmarkUnrelatedCommit(b *testing.B) {
	s, g := big(b)
	once(b, s, triggerDrift)
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		g.Push(map[string]string{"d001/f0001.txt": gittest.BigFile(n, "x")})
		b.StartTimer()
		if p := once(b, s, triggerCommit); p.Changes() {
			b.Fatal("something changed")
		}
	}
}

// BenchmarkOneFileChanged is a commit that changes one stack of a thousand: fetched, compared and planned.
func BenchmarkOneFileChanged(b *testing.B) {
	s, g := big(b)
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		g.Push(map[string]string{"d001/s0002.toml": gittest.BigFile(2, gittest.BigFile(n, "")[:30])})
		b.StartTimer()
		v, err := s.src.fetch(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := s.preview(b.Context(), v, job{trigger: triggerCommit}); err != nil {
			b.Fatal(err)
		}
	}
}
