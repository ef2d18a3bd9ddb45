package apply

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// OpIDOf derives an op's id. The attempt is the run: a resumed run asks for the same ops again, a later one for new
// ones, also when the digest is the same, as when drift is put right.
func OpIDOf(sync string, resource schema.ID, digest plan.Digest, verb protocol.Verb, attempt string) protocol.OpID {
	sum := sha256.Sum256([]byte(strings.Join([]string{sync, string(resource), string(digest), string(verb), attempt}, "\x00")))
	return protocol.OpID(hex.EncodeToString(sum[:16]))
}

// do carries one op out and comes back with its end.
func (r *run) do(ctx context.Context, j job) job {
	s := j.step
	if s.Action == plan.Run {
		return j.fail(string(s.Resource.Kind()) + "s are not carried out by this version")
	}
	if needsPayload(j.verb) && j.payload == nil {
		var err error
		if j.payload, err = r.opts.Payloads.Payload(ctx, *s.Step); err != nil {
			j.cut = ctx.Err() != nil
			return j.fail(fmt.Sprintf("read what %s needs: %v", s.Resource, err))
		}
	}
	op := protocol.Op{
		Version: protocol.Version, Verb: j.verb, Resource: cmp.Or(s.Of, s.Resource), Server: s.Server,
		Fleet: r.opts.Head.Fleet, Sync: cmp.Or(s.Sync, r.opts.Head.Sync), Commit: cmp.Or(s.Commit, r.opts.Head.Commit),
		Digest: s.Digest, Services: s.Services, Payload: trim(j.verb, j.payload),
		ID: OpIDOf(r.opts.Head.Sync, s.Resource, s.Digest, j.verb, r.opts.Run),
	}
	if rec := r.opts.Resume; rec != nil && rec.Outcomes[op.ID] != nil {
		j.outcome = *rec.Outcomes[op.ID]
		return j
	}
	if err := r.record(ctx, Entry{Kind: EntryIntended, Resource: s.Resource, Verb: j.verb, Op: op.ID}); err != nil {
		j.cut = ctx.Err() != nil
		return j.fail(fmt.Sprintf("record what is about to be done: %v", err))
	}
	r.emit(Event{Kind: OpStarted, Resource: s.Resource, Server: s.Server, Action: s.Action, Verb: j.verb})
	began := time.Now()
	if r.carry(ctx, op, &j) {
		r.ask(ctx, op, &j)
	}
	if j.outcome.Millis == 0 {
		j.outcome.Millis = time.Since(began).Milliseconds()
	}
	if !j.cut && j.unknown == "" {
		// The outcome is also at the agent, so a journal that fails here loses no decision; run.record keeps the error.
		_ = r.record(context.WithoutCancel(ctx), Entry{Kind: EntryOutcome, Resource: s.Resource, Verb: j.verb, Op: op.ID, Outcome: &j.outcome})
	}
	out := j.outcome
	r.emit(Event{Kind: OpFinished, Resource: s.Resource, Server: s.Server, Action: s.Action, Verb: j.verb, Outcome: &out, Detail: j.unknown})
	return j
}

// carry brings the binary that an op asks for, part by part, and reports whether it is there.
func (r *run) carry(ctx context.Context, op protocol.Op, j *job) bool {
	if op.Verb != protocol.Update || op.Payload == nil || op.Payload.Agent == nil {
		return true
	}
	part := op
	part.Verb = protocol.Carry
	buf := make([]byte, protocol.PartSize)
	for b := *op.Payload.Agent; b.Offset < b.Size; b.Offset += protocol.PartSize {
		n, err := b.Whole.ReadAt(buf[:min(protocol.PartSize, b.Size-b.Offset)], b.Offset)
		if err != nil && n == 0 {
			*j = j.fail(fmt.Sprintf("read the binary: %v", err))
			return false
		}
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed) // a level it knows
		if _, err = z.Write(buf[:n]); err == nil {
			err = z.Close()
		}
		if err != nil {
			*j = j.fail(fmt.Sprintf("pack the binary: %v", err))
			return false
		}
		b.Part = packed.Bytes()
		part.ID = OpIDOf(string(op.ID), op.Resource, op.Digest, protocol.Carry, strconv.FormatInt(b.Offset, 10))
		part.Payload = &protocol.Payload{Agent: &b}
		r.emit(Event{Kind: OpProgress, Resource: j.Resource, Server: op.Server, Action: j.Action, Verb: op.Verb,
			Progress: &protocol.Progress{ID: op.ID, Resource: op.Resource, Server: op.Server, Phase: "bringing", Detail: fmt.Sprintf("%d %%", 100*b.Offset/b.Size)}})
		if r.ask(ctx, part, j); j.cut || j.unknown != "" || j.outcome.Status != protocol.Done {
			return false
		}
	}
	return true
}

// fail ends a job before anything was sent.
func (j job) fail(why string) job {
	j.outcome = protocol.Outcome{Version: protocol.Version, Status: protocol.Failed, Error: why}
	return j
}

// ask sends the op, and sends it again while its outcome is unknown.
func (r *run) ask(ctx context.Context, op protocol.Op, j *job) {
	const patient = time.Minute // a call that lasted so long had reached its server
	reached := false
	if rec := r.opts.Resume; rec != nil {
		_, reached = rec.Intended[op.ID]
	}
	progress := func(p protocol.Progress) {
		r.emit(Event{Kind: OpProgress, Resource: j.Resource, Server: op.Server, Action: j.Action, Verb: op.Verb, Progress: &p})
	}
	pause := 100 * time.Millisecond
	since := time.Now()
	for {
		called := time.Now()
		outcome, err := r.opts.Fleet.Do(ctx, op, progress)
		if err == nil {
			j.outcome = outcome
			return
		}
		if ctx.Err() != nil {
			j.cut = true
			return
		}
		if !errors.Is(err, ErrUnreachable) {
			reached = true
		}
		if time.Since(called) > patient {
			since, pause = time.Now(), 100*time.Millisecond
		}
		waited := time.Since(since)
		switch {
		case !reached && waited >= r.opts.Reach:
			*j = j.fail(err.Error())
			j.away = true
			return
		case reached && waited >= r.opts.Patience:
			j.unknown = fmt.Sprintf("server %s is unreachable: it was cut off in the middle of this and did not come back within %s; what became of it is seen when it does (%s)",
				op.Server, r.opts.Patience, err)
			j.away = true
			return
		}
		r.log.Warn("outcome not known, asking again", "resource", op.Resource, "server", op.Server, "op", op.ID, "err", err)
		r.emit(Event{Kind: OpAsked, Resource: j.Resource, Server: op.Server, Action: j.Action, Verb: op.Verb, Detail: err.Error()})
		select {
		case <-ctx.Done():
			j.cut = true
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// needsPayload reports whether the agent cannot do the op by its ledger alone.
func needsPayload(v protocol.Verb) bool {
	switch v {
	case protocol.Remove, protocol.Release, protocol.Stop, protocol.SetHold:
		return false
	}
	return true
}

// trim leaves out what the op does not use: files and secrets travel only where they are laid.
func trim(v protocol.Verb, p *protocol.Payload) *protocol.Payload {
	if p == nil || v == protocol.Prepare || v == protocol.Deploy || v == protocol.Adopt {
		return p
	}
	short := *p
	short.Files, short.Registries = nil, nil
	return &short
}

func noPayload(context.Context, plan.Step) (*protocol.Payload, error) { return nil, nil }

// record appends to the journal. Once that has failed, no further op starts.
func (r *run) record(ctx context.Context, e Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.journalErr != nil {
		return r.journalErr
	}
	e.Run, e.At = r.opts.Run, time.Now().UTC()
	if err := r.opts.Journal.Append(ctx, e); err != nil {
		r.journalErr = fmt.Errorf("write the journal: %w", err)
		r.log.Error("journal cannot be written, no further op starts", "err", err)
		return r.journalErr
	}
	return nil
}

// emit tells an event.
func (r *run) emit(e Event) {
	if r.opts.Events == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Run, e.At = r.opts.Run, time.Now().UTC()
	r.opts.Events(e)
}

// emitStep tells and records a step's end.
func (r *run) emitStep(s *step) {
	result := s.result
	if changes(s.Action) || result.Status != StatusDone {
		_ = r.record(context.Background(), Entry{Kind: EntryStep, Resource: s.Resource, Step: &result})
	}
	r.emit(Event{Kind: StepDone, Resource: s.Resource, Server: s.Server, Action: s.Action, Step: &result})
}
