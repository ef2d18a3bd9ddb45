package link

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/varanhq/varan/agent/protocol"
)

// TestOpOfAnotherVersion: an op of a daemon one version apart is worked on, unknown fields and all; one further apart
// is refused with both versions named.
func TestOpOfAnotherVersion(t *testing.T) {
	for apart := -2; apart <= 2; apart++ {
		t.Run(fmt.Sprintf("%+d", apart), func(t *testing.T) {
			var op protocol.Op
			text := fmt.Sprintf(`{"version":%d,"id":"op1","verb":"deploy","resource":"stack/db","server":"web1","wings":2,"payload":{"units":null,"feathers":[1]}}`, protocol.Version+apart)
			if err := protocol.Decode([]byte(text), &op); err != nil {
				t.Fatal(err)
			}
			why := foreign(op)
			if far := apart < -1 || apart > 1; (why != "") != far || far && !strings.Contains(why, fmt.Sprintf("version %d of the protocol, this agent %d", op.Version, protocol.Version)) {
				t.Errorf("refused because %q", why)
			}
			if data, err := json.Marshal(op); err != nil || strings.Contains(string(data), "wings") {
				t.Errorf("read as %s, %v", data, err)
			}
		})
	}
}
