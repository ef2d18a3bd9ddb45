package webhook

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	queueName     = "HOOKS_IN"
	queueSubject  = "hook.queue"
	queueConsumer = "leader"
	maxQueue      = 32 << 20
)

// A Queue takes in at any of several daemons what the one that leads acts on. A delivery in it is on disk in the
// cluster, also while nobody leads.
type Queue struct {
	js   jetstream.JetStream
	conf jetstream.StreamConfig
	log  *slog.Logger

	failing atomic.Bool // the last write failed
}

// queued is one delivery on its way to the leader.
type queued struct {
	Format int    `json:"format"`
	ID     string `json:"id"`   // the forge's
	Body   string `json:"body"` // SHA-256, hex
	Hint   *Hint  `json:"hint"`
}

// OpenQueue opens the queue, or makes it. It refuses when it is full.
func OpenQueue(ctx context.Context, js jetstream.JetStream, replicas int, log *slog.Logger) (*Queue, error) {
	q := &Queue{js: js, log: cmp.Or(log, slog.New(slog.DiscardHandler)), conf: jetstream.StreamConfig{
		Name: queueName, Subjects: []string{queueSubject}, Storage: jetstream.FileStorage, Replicas: max(replicas, 1),
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: maxQueue,
	}}
	if _, err := js.CreateOrUpdateStream(ctx, q.conf); err != nil {
		return nil, fmt.Errorf("open the queue of webhooks: %w", err)
	}
	return q, nil
}

// put returns once the hint is on disk in the cluster. The leader tells what is news.
func (q *Queue) put(ctx context.Context, id string, body [32]byte, h *Hint) (news bool, err error) {
	data, err := json.Marshal(queued{Format: format, ID: id, Body: hex.EncodeToString(body[:]), Hint: h})
	if err != nil {
		return false, err
	}
	_, err = q.js.Publish(ctx, queueSubject, data)
	if errors.Is(err, jetstream.ErrNoStreamResponse) { // it was erased
		if _, again := q.js.CreateOrUpdateStream(ctx, q.conf); again == nil {
			_, err = q.js.Publish(ctx, queueSubject, data)
		}
	}
	q.failing.Store(err != nil)
	if err != nil {
		return false, fmt.Errorf("write to the stream %s: %w", queueName, err)
	}
	return true, nil
}

// drain hands what waits in the queue to in, and takes it out once it is kept there, until ctx ends.
func (q *Queue) drain(ctx context.Context, in *inbox, held func() bool) error {
	for ctx.Err() == nil {
		if err := q.drainOnce(ctx, in, held); err != nil && ctx.Err() == nil {
			q.log.WarnContext(ctx, "webhooks wait in the queue", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

func (q *Queue) drainOnce(ctx context.Context, in *inbox, held func() bool) error {
	select {
	case <-in.begun:
	case <-ctx.Done():
		return nil
	}
	c, err := q.js.CreateOrUpdateConsumer(ctx, queueName, jetstream.ConsumerConfig{
		Durable: queueConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 256,
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = q.js.CreateOrUpdateStream(ctx, q.conf)
		return err
	}
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		batch, end, err := fetch(ctx, c)
		if err != nil {
			return err
		}
		var failed error
		for m := range batch.Messages() {
			if failed == nil {
				failed = q.bring(ctx, m, in, held)
			}
			if failed != nil {
				_ = m.Nak() // for the next question, or the next leader
			}
		}
		end()
		if failed != nil {
			return failed
		}
		if err := batch.Error(); err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return nil
}

// ackWait is after how long the next leader is given what a frozen one had taken.
const ackWait = 5 * time.Second

// fetchEvery is how long one question for what waits stands.
const fetchEvery = 5 * time.Second

// fetch asks for what waits; end is to be called when it was taken.
func fetch(ctx context.Context, c jetstream.Consumer) (jetstream.MessageBatch, func(), error) {
	ctx, end := context.WithTimeout(ctx, fetchEvery)
	batch, err := c.Fetch(64, jetstream.FetchContext(ctx))
	if err != nil {
		end()
	}
	return batch, end, err
}

// bring keeps one delivery in the inbox, which knows whether it was had before.
func (q *Queue) bring(ctx context.Context, m jetstream.Msg, in *inbox, held func() bool) error {
	var d queued
	var body [32]byte
	raw, err := []byte(nil), json.Unmarshal(m.Data(), &d)
	if err == nil {
		raw, err = hex.DecodeString(d.Body)
	}
	if err != nil || d.Format != format || d.Hint == nil || copy(body[:], raw) != len(body) {
		q.log.WarnContext(ctx, "a queued webhook is not understood and left out", "format", d.Format)
		return m.Term()
	}
	if held != nil && !held() {
		return errors.New("another daemon leads now")
	}
	if _, err := in.put(ctx, d.ID, body, d.Hint); err != nil {
		return err
	}
	return m.Ack()
}
