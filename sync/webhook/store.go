package webhook

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	storeName    = "HOOKS"
	storeSubject = "hook.in"
	maxStore     = 32 << 20
)

// A stream is a Store in the daemon's JetStream, which syncs every write.
type stream struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	conf   jetstream.StreamConfig
}

// OpenStore opens the deliveries that were kept, or makes a place for them. It refuses when it is full: nothing that
// waits is dropped for something new.
//
// Replicas is how many servers of a cluster keep it.
func OpenStore(ctx context.Context, js jetstream.JetStream, replicas int) (Store, error) {
	conf := jetstream.StreamConfig{
		Name: storeName, Subjects: []string{storeSubject}, Storage: jetstream.FileStorage, Replicas: max(replicas, 1),
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, MaxBytes: maxStore,
	}
	s, err := js.CreateOrUpdateStream(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("open the webhooks that were kept: %w", err)
	}
	return &stream{js: js, stream: s, conf: conf}, nil
}

func (s *stream) Append(ctx context.Context, data []byte) (uint64, error) {
	ack, err := s.js.Publish(ctx, storeSubject, data)
	if errors.Is(err, jetstream.ErrNoStreamResponse) { // it was erased
		if _, again := s.js.CreateOrUpdateStream(ctx, s.conf); again == nil {
			ack, err = s.js.Publish(ctx, storeSubject, data)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("write to the stream %s: %w", storeName, err)
	}
	return ack.Sequence, nil
}

func (s *stream) Replay(ctx context.Context, fn func(uint64, []byte) error) error {
	for seq := uint64(1); ; {
		msg, err := s.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(storeSubject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the stream %s: %w", storeName, err)
		}
		if err := fn(msg.Sequence, msg.Data); err != nil {
			return err
		}
		seq = msg.Sequence + 1
	}
}

func (s *stream) Trim(ctx context.Context, before uint64) error {
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSequence(before)); err != nil {
		return fmt.Errorf("shorten the stream %s: %w", storeName, err)
	}
	return nil
}
