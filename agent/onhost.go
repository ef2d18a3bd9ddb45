package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/plan"
)

// declaredHere reports whether what a payload's stack declares depends on files of this host.
func declaredHere(p *protocol.Payload) bool {
	return p != nil && p.Stack != nil && (p.Stack.FilesOnHost || p.OnHost)
}

// declareOnHost reads what the files of this host declare, and gives the payload filled in with it.
func (a *Agent) declareOnHost(ctx context.Context, op protocol.Op, rec *record) (*stack.HostDeclared, *protocol.Payload, error) {
	s, err := a.openStack(ctx, op, rec)
	if err != nil {
		return nil, nil, err
	}
	d, err := s.Declare(ctx, a.prints.of)
	if err != nil {
		return nil, nil, err
	}
	p := *op.Payload
	p.Units, p.Volumes, p.Binds, p.Directory = d.Shown.Units, d.Shown.Volumes, d.Shown.Binds, d.Shown.Directory
	return d, &p, nil
}

// settleOnHost fills in the op's payload from the files of this host, and fails if they are not what the plan was
// made from.
func (a *Agent) settleOnHost(ctx context.Context, op *protocol.Op) ([]string, error) {
	if !declaredHere(op.Payload) {
		return nil, nil
	}
	d, p, err := a.declareOnHost(ctx, *op, a.ledger.get(op.Resource))
	if err != nil {
		return nil, err
	}
	if d.Open.Blocked != "" {
		return nil, &container.Failure{Message: d.Open.Blocked, Hint: "put it right on the host"}
	}
	for _, st := range op.Services {
		if !creates(st.Action) {
			continue
		}
		is := func(u plan.Unit) bool { return u.Service == st.Name }
		was, now := slices.IndexFunc(op.Payload.Units, is), slices.IndexFunc(p.Units, is)
		if now < 0 || was >= 0 && op.Payload.Units[was].Digest != p.Units[now].Digest {
			return nil, &container.Failure{Service: st.Name, Message: fmt.Sprintf("the files of service %q on this host changed after the plan was made", st.Name),
				Hint: "apply again"}
		}
	}
	op.Payload = p
	return d.Files, nil
}
