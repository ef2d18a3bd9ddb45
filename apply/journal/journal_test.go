package journal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/journal"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// TestMain is also the daemon that is killed: it writes a run and says each entry it wrote.
func TestMain(m *testing.M) {
	if dir := os.Getenv("VARAN_TEST_JOURNAL"); dir != "" {
		write(dir)
		return
	}
	os.Exit(m.Run())
}

func start(dir string) (*fleet.Hub, *journal.Journal, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, nil, err
	}
	hub, err := fleet.Start(fleet.Options{Key: key, JournalDir: dir})
	if err != nil {
		return nil, nil, err
	}
	j, err := journal.Open(context.Background(), hub.JetStream(), journal.Options{})
	return hub, j, err
}

func open(t *testing.T, dir string) (*journal.Journal, func()) {
	t.Helper()
	hub, j, err := start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	return j, hub.Close
}

func write(dir string) {
	_, j, err := start(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	for n := 0; ; n++ {
		run := fmt.Sprintf("run-%04d", n)
		for _, e := range entries(run) {
			if n == 3 && e.Kind == apply.EntryFinished {
				if err := j.Flush(ctx); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Println("cut")
				select {}
			}
			if err := j.Append(ctx, e); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
}

func entries(run string) []apply.Entry {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := &plan.Plan{Version: 1, Commit: "c1", Digest: "1:p", Summary: plan.Summary{plan.Update: 1}, Steps: []plan.Step{
		{Resource: "stack/net", Action: plan.None, Gate: true},
		{Resource: "stack/db", Action: plan.Update, Digest: "1:db", Server: "web1", After: []schema.ID{"stack/net"}},
		{Resource: "stack/other", Action: plan.None, Gate: true},
	}}
	return []apply.Entry{
		{Run: run, At: at, Kind: apply.EntryStarted, Head: &apply.Head{Sync: "main", Commit: "c1"}, Plan: apply.Store(p)},
		{Run: run, At: at, Kind: apply.EntryIntended, Resource: "stack/db", Verb: protocol.Deploy, Op: "op1"},
		{Run: run, At: at, Kind: apply.EntryOutcome, Resource: "stack/db", Verb: protocol.Deploy, Op: "op1", Outcome: &protocol.Outcome{ID: "op1", Status: protocol.Done}},
		{Run: run, At: at, Kind: apply.EntryIntended, Resource: "stack/db", Verb: protocol.Await, Op: "op2"},
		{Run: run, At: at, Kind: apply.EntryStep, Resource: "stack/db", Step: &apply.StepResult{Resource: "stack/db", Status: apply.StatusDone}},
		{Run: run, At: at, Kind: apply.EntryFinished, Status: apply.StatusDone},
	}
}

func TestSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VARAN_TEST_JOURNAL="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line := bufio.NewScanner(out); !line.Scan() || line.Text() != "cut" {
		t.Fatal("the writer ended early")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	j, _ := open(t, dir)
	runs, err := j.Runs(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range runs {
		got = append(got, r.ID+" "+string(r.Status))
	}
	want := []string{"run-0003 running", "run-0002 done", "run-0001 done", "run-0000 done"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	cut, err := j.Unfinished(t.Context())
	if err != nil || len(cut) != 1 || cut[0].ID != "run-0003" {
		t.Fatalf("Unfinished = %v, %v", cut, err)
	}
	r := cut[0]
	if len(r.Plan.Steps) != 2 || r.Plan.Steps[1].Digest != "1:db" || !r.Plan.Steps[0].Gate {
		t.Errorf("plan = %+v", r.Plan)
	}
	if r.Outcomes["op1"].Status != protocol.Done {
		t.Errorf("outcomes = %v", r.Outcomes)
	}
}

// TestFullDisk: an entry that finds the disk full is an error, JetStream gives up, and is opened again when there is
// space; what was written before is there.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a small file system is mounted by root alone")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	hub, _, err := start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	ctx := t.Context()
	j, err := journal.Open(ctx, hub.JetStream(), journal.Options{Patience: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	put := func(run string) (err error) {
		for _, e := range entries(run) {
			err = errors.Join(err, j.Append(ctx, e))
		}
		return err
	}
	if err := put("before"); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	f.Close()
	full := false
	for i := 0; i < 50 && !full; i++ { // the last block may have room
		full = put(fmt.Sprint("full", i)) != nil
	}
	if !full || !j.Failed() {
		t.Fatalf("written to a full disk: failed %v", j.Failed())
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it does no harm where all is well
		if err := hub.ReopenJournal(); err != nil {
			t.Fatal(err)
		}
	}
	j.Mended()
	if err := put("after"); err != nil || j.Failed() || !hub.JournalIsOpen() {
		t.Fatalf("after: %v, failed %v", err, j.Failed())
	}
	for _, run := range []string{"before", "after"} {
		if r, err := j.Run(ctx, run); err != nil || r.Status != apply.StatusDone {
			t.Errorf("%s: %+v, %v", run, r, err)
		}
	}
}

func TestLostJournalLosesHistoryOnly(t *testing.T) {
	dir := t.TempDir()
	j, stop := open(t, dir)
	for _, e := range entries("r1") {
		if err := j.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	j, _ = open(t, dir)
	if runs, err := j.Runs(t.Context(), 0); err != nil || len(runs) != 0 {
		t.Errorf("Runs = %v, %v", runs, err)
	}
	if _, err := j.Run(t.Context(), "r1"); !errors.Is(err, journal.ErrNoRun) {
		t.Errorf("Run = %v", err)
	}
	for _, id := range []string{"", "*", ">", "a.b"} {
		if _, err := j.Run(t.Context(), id); !errors.Is(err, journal.ErrNoRun) {
			t.Errorf("Run(%q) = %v", id, err)
		}
	}
}

func TestLargeAndBounded(t *testing.T) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	hub, err := fleet.Start(fleet.Options{Key: key, JournalDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	j, err := journal.Open(t.Context(), hub.JetStream(), journal.Options{MaxBytes: 3 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var noise strings.Builder // does not pack well
	for i := range 120_000 {
		fmt.Fprintf(&noise, "%x", i*2654435761)
	}
	for n := range 8 {
		e := entries(fmt.Sprintf("r%02d", n))
		e[0].Plan.Plan.Steps[1].Changes = []plan.Change{{Path: "x", New: noise.String()}}
		for _, e := range e {
			if err := j.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := j.Run(t.Context(), "r07")
	if err != nil || r.Plan.Steps[1].Changes[0].New != noise.String() {
		t.Fatalf("Run = %v", err)
	}
	runs, err := j.Runs(t.Context(), 0)
	if err != nil || len(runs) == 0 || len(runs) >= 8 || runs[0].ID != "r07" {
		t.Errorf("Runs = %d, %v", len(runs), err)
	}
}
