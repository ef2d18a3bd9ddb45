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
}

// OpenStore opens the deliveries that were kept, or makes a place for them. It refuses when it is full: nothing that
// waits is dropped for something new.
func OpenStore(ctx context.Context, js jetstream.JetStream) (Store, error) {
	s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: storeName, Subjects: []string{storeSubject}, Storage: jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, MaxBytes: maxStore,
	})
	if err != nil {
		return nil, fmt.Errorf("open the webhooks that were kept: %w", err)
	}
	return &stream{js, s}, nil
}

func (s *stream) Append(ctx context.Context, data []byte) (uint64, error) {
	ack, err := s.js.Publish(ctx, storeSubject, data)
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
