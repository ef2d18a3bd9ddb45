package journal

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/varanhq/varan/apply"
)

const (
	streamName = "RUNS"
	// partSize bounds one stored message; the server takes no larger ones.
	partSize = 512 << 10
	// maxEntry bounds an entry when read: a plan of 100,000 steps with all its field changes.
	maxEntry = 512 << 20
	// ackTimeout bounds how long the disk may take for one entry.
	ackTimeout = 30 * time.Second

	partOf = "Varan-Part" // header of all but the last part of an entry
)

// Options bound what is kept. Zero fields take the defaults named.
type Options struct {
	MaxBytes int64         // 128 MiB
	MaxAge   time.Duration // 90 days
	Patience time.Duration // how long the disk may take to write an entry: 30 s
	Replicas int           // how many servers of a cluster keep it: 1
}

// A Journal is an apply.Journal on disk. Its methods may be called side by side.
type Journal struct {
	js   jetstream.JetStream
	conf jetstream.StreamConfig

	patience time.Duration

	mu      sync.Mutex // guards below, and keeps entries in order
	stream  jetstream.Stream
	pending []jetstream.PubAckFuture
	runs    []*head // in the order they began
	byID    map[string]*head
	failed  bool // an entry could not be written since Mended
}

// A head is what is kept in memory of a run, so that listing them reads nothing.
type head struct {
	apply.Record
	first uint64 // sequence of its first entry
}

var _ apply.Journal = (*Journal)(nil)

// Open opens the journal, or makes an empty one.
func Open(ctx context.Context, js jetstream.JetStream, opts Options) (*Journal, error) {
	conf := jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"run.>"}, Storage: jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Replicas: cmp.Or(opts.Replicas, 1),
		AllowDirect: cmp.Or(opts.Replicas, 1) == 1, // of several servers one may be late: what was appended must be read
		MaxBytes:    cmp.Or(opts.MaxBytes, 128<<20), MaxAge: cmp.Or(opts.MaxAge, 90*24*time.Hour),
	}
	stream, err := js.CreateOrUpdateStream(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{js: js, conf: conf, stream: stream, patience: cmp.Or(opts.Patience, ackTimeout), byID: make(map[string]*head)}
	if err := j.readHeads(ctx); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return j, nil
}

// readAhead bounds what comes unasked while heads are read: a few entries with their plans.
const readAhead = 4 << 20

// readHeads reads what Runs tells, as a stream: one question for each entry takes long where the journal is on other
// machines, and a daemon that takes over has seconds.
func (j *Journal) readHeads(ctx context.Context) error {
	var subjects []string
	for _, kind := range []apply.EntryKind{apply.EntryStarted, apply.EntryCascades, apply.EntryFinished} {
		subjects = append(subjects, "run.*."+string(kind))
	}
	c, err := j.js.OrderedConsumer(ctx, streamName, jetstream.OrderedConsumerConfig{FilterSubjects: subjects})
	if err != nil {
		return err
	}
	info, err := c.Info(ctx)
	if err != nil || info.NumPending == 0 {
		return err
	}
	msgs, err := c.Messages(jetstream.PullMaxBytes(readAhead))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	a := assembly{take: j.index}
	for {
		msg, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		a.add(meta.Sequence.Stream, msg.Subject(), msg.Headers(), msg.Data())
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// An assembly puts the parts of entries together. One written by a newer varan is passed over.
type assembly struct {
	take func(uint64, apply.Entry)
	body []byte
	from string // whose parts body holds
}

func (a *assembly) add(seq uint64, subject string, header nats.Header, data []byte) {
	if subject != a.from { // a process was killed between two parts
		a.body, a.from = a.body[:0], subject
	}
	a.body = append(a.body, data...)
	if header.Get(partOf) != "" {
		return
	}
	if e, err := decode(a.body); err == nil {
		a.take(seq, e)
	}
	a.body = a.body[:0]
}

// Failed reports whether an entry could not be written: its stream then refuses all others, until who owns it opens it
// again and says so by Mended.
func (j *Journal) Failed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// Mended forgets what could not be written.
func (j *Journal) Mended() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = false
	_ = j.reap()
}

// Reopen makes a stream again that was erased, and forgets what could not be written.
func (j *Journal) Reopen(ctx context.Context) error {
	stream, err := j.js.CreateOrUpdateStream(ctx, j.conf)
	if err != nil {
		return fmt.Errorf("open the journal again: %w", err)
	}
	j.mu.Lock()
	j.stream = stream
	j.mu.Unlock()
	j.Mended()
	return nil
}

// of is the stream as it is now.
func (j *Journal) of() jetstream.Stream {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stream
}

// Append adds an entry.
func (j *Journal) Append(ctx context.Context, e apply.Entry) (err error) {
	parts, err := encode(e)
	if err != nil {
		return fmt.Errorf("encode journal entry: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	defer func() { j.failed = j.failed || err != nil && ctx.Err() == nil }()
	if err := j.reap(); err != nil {
		return err
	}
	subject := "run." + e.Run + "." + string(e.Kind)
	for i, part := range parts {
		msg := &nats.Msg{Subject: subject, Data: part}
		if last := i == len(parts)-1; !last {
			msg.Header = nats.Header{partOf: []string{e.Run}}
		} else if e.Kind == apply.EntryStarted || e.Kind == apply.EntryFinished {
			ctx, cancel := context.WithTimeout(ctx, j.patience)
			defer cancel()
			ack, err := j.js.PublishMsg(ctx, msg)
			if err != nil {
				return fmt.Errorf("append to journal: %w", err)
			}
			e.Plan = nil
			j.index(ack.Sequence, e)
			return j.reap()
		}
		future, err := j.js.PublishMsgAsync(msg, jetstream.WithStallWait(stallWait))
		if err != nil {
			return fmt.Errorf("append to journal: %w", err)
		}
		j.pending = append(j.pending, future)
	}
	j.index(0, e)
	return nil
}

// stallWait is how long an entry waits for a slow disk to catch up with the thousands before it: a run of many steps at
// once is no failure of the journal.
const stallWait = 30 * time.Second

// Flush returns when all entries are on disk.
func (j *Journal) Flush(ctx context.Context) error {
	select {
	case <-j.js.PublishAsyncComplete():
	case <-ctx.Done():
		return fmt.Errorf("flush journal: %w", context.Cause(ctx))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.reap()
}

// reap takes in what the disk said of earlier entries. The mutex is held.
func (j *Journal) reap() error {
	var failed error
	j.pending = slices.DeleteFunc(j.pending, func(f jetstream.PubAckFuture) bool {
		select {
		case <-f.Ok():
			return true
		case err := <-f.Err():
			failed = errors.Join(failed, err)
			return true
		default:
			return false
		}
	})
	if failed != nil {
		return fmt.Errorf("append to journal: %w", failed)
	}
	return nil
}

// index keeps an entry's share of a run's head. The mutex is held, or nobody else knows the journal yet.
func (j *Journal) index(seq uint64, e apply.Entry) {
	switch e.Kind {
	case apply.EntryStarted, apply.EntryCascades, apply.EntryFinished:
	default:
		return
	}
	h := j.byID[e.Run]
	if h == nil {
		if e.Kind != apply.EntryStarted {
			return // its beginning has aged out
		}
		h = &head{first: seq}
		j.byID[e.Run] = h
		j.runs = append(j.runs, h)
	}
	e.Plan = nil
	h.Add(e)
}

// Runs lists the last runs, the newest first, without plans and steps; n <= 0 lists all.
func (j *Journal) Runs(ctx context.Context, n int) ([]apply.Record, error) {
	info, err := j.of().Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.runs = slices.DeleteFunc(j.runs, func(h *head) bool {
		gone := h.first < info.State.FirstSeq
		if gone {
			delete(j.byID, h.ID)
		}
		return gone
	})
	var records []apply.Record
	for _, h := range slices.Backward(j.runs) {
		if n > 0 && len(records) == n {
			break
		}
		records = append(records, h.Record)
	}
	return records, nil
}

// ErrNoRun says that the journal has no such run, or no longer.
var ErrNoRun = errors.New("no such run")

// Run reads one run in full.
func (j *Journal) Run(ctx context.Context, id string) (*apply.Record, error) {
	if id == "" || strings.ContainsAny(id, ".*> \t\r\n") {
		return nil, fmt.Errorf("run %q: %w", id, ErrNoRun)
	}
	r := &apply.Record{}
	if err := j.scan(ctx, "run."+id+".*", func(_ uint64, e apply.Entry) { r.Add(e) }); err != nil {
		return nil, fmt.Errorf("read run %s: %w", id, err)
	}
	if r.Started.IsZero() {
		return nil, fmt.Errorf("run %s: %w", id, ErrNoRun)
	}
	return r, nil
}

// Unfinished reads the runs that were cut off, the oldest first. Ask before a new run starts.
func (j *Journal) Unfinished(ctx context.Context) ([]*apply.Record, error) {
	var ids []string
	j.mu.Lock()
	for _, h := range j.runs {
		if h.Unfinished() {
			ids = append(ids, h.ID)
		}
	}
	j.mu.Unlock()
	var records []*apply.Record
	for _, id := range ids {
		r, err := j.Run(ctx, id)
		if errors.Is(err, ErrNoRun) {
			continue
		}
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// scan reads the entries on subjects that match, in order.
func (j *Journal) scan(ctx context.Context, subject string, take func(uint64, apply.Entry)) error {
	a := assembly{take: take}
	stream := j.of()
	for seq := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = msg.Sequence + 1
		a.add(msg.Sequence, msg.Subject, msg.Header, msg.Data)
	}
}

// encode writes an entry, packed if it is large, in parts no larger than the server takes.
func encode(e apply.Entry) ([][]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if len(data) > 4<<10 {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(data); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		data = b.Bytes()
	}
	return slices.Collect(slices.Chunk(data, partSize)), nil
}

func decode(data []byte) (apply.Entry, error) {
	var e apply.Entry
	if len(data) > 0 && data[0] != '{' {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return e, err
		}
		if data, err = io.ReadAll(io.LimitReader(z, maxEntry)); err != nil {
			return e, err
		}
	}
	return e, json.Unmarshal(data, &e)
}
