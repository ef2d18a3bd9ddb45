package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
)

// TestProtocolVersions: an agent one version of the protocol older or newer is worked with, and what it says beyond
// what is known here is passed over. One further apart is told so, in the words that varan status shows.
func TestProtocolVersions(t *testing.T) {
	for apart := -2; apart <= 2; apart++ {
		t.Run(fmt.Sprintf("%+d", apart), func(t *testing.T) {
			hub := newHub(t, fleet.Options{})
			key, public := newKey(t)
			if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
				t.Fatal(err)
			}
			conn, err := link.Connect("", key, hub.InProcess())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			curve, err := nkeys.CreateCurveKeys()
			if err != nil {
				t.Fatal(err)
			}
			version := protocol.Version + apart
			said := map[wire.Kind]string{
				wire.Hello:   `{"version":%d,"session":"s","term":0,"moods":["new"],"name":"web1"}`,
				wire.Observe: `{"version":%d,"state":{"name":"web1","containers":[],"weather":{"sun":true},"agent":{"version":"v9","platform":"linux-amd64","colour":"red"}},"extra":1}`,
				wire.Submit:  `{"version":%d,"state":"done","outcome":{"version":%[1]d,"id":"op1","status":"done","applause":3}}`,
			}
			var e *wire.Endpoint
			e = &wire.Endpoint{Conn: conn, Key: key, Curve: curve, Accept: func(*wire.Manifest) error { return nil }, Handle: func(m *wire.Message) {
				go func() {
					body := fmt.Sprintf(said[m.Kind], version)
					_ = e.Send(context.Background(), wire.FromAgent(public), wire.Manifest{Kind: wire.Answer, Agent: public, To: m.Curve, Re: m.ID, Op: m.Op}, []byte(body))
				}()
			}}
			if _, err := e.Listen(wire.ToAgent(public)); err != nil {
				t.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			state := apply.Observe(t.Context(), hub, []string{"web1"}, nil).Servers["web1"]
			if apart < -1 || apart > 1 {
				for _, want := range []string{fmt.Sprintf("the agent speaks version %d of the protocol, this daemon %d", version, protocol.Version), "update the older"} {
					if !strings.Contains(state.Unreachable, want) {
						t.Errorf("status would say %q, want %q", state.Unreachable, want)
					}
				}
				return
			}
			if state.Unreachable != "" || state.Agent == nil || state.Agent.Version != "v9" {
				t.Errorf("observed %+v", state)
			}
			out, err := hub.Do(t.Context(), deploy("op1"), nil)
			if err != nil || out.Status != protocol.Done {
				t.Errorf("Do = %+v, %v", out, err)
			}
		})
	}
}
