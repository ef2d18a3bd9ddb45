package agent

import (
	"strings"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/agent/protocol"
)

// printer starts a container of the resource that prints what the script says.
func (h *host) printer(name, script string) {
	h.Helper()
	c, err := h.api.ContainerCreate(h.Context(), &docker.Config{Image: testImage, Cmd: []string{"sh", "-c", script}, StopSignal: "SIGKILL",
		Labels: map[string]string{"varan.fleet": h.fleet, "varan.resource": "stack/p", "com.docker.compose.service": name}},
		&docker.HostConfig{NetworkMode: "none"}, nil, nil, h.fleet+"-"+name)
	if err == nil {
		err = h.api.ContainerStart(h.Context(), c.ID, docker.StartOptions{})
	}
	if err != nil {
		h.Fatal(err)
	}
}

func TestLogs(t *testing.T) {
	h := newHost(t)
	h.printer("a", "echo one; echo the word is swordfish; echo two")
	h.printer("b", "echo three")
	h.printer("c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")
	ask := func(q protocol.Logs) protocol.Logged {
		q.Version, q.Fleet, q.Resource = protocol.Version, h.fleet, "stack/p"
		return h.agent.Logs(t.Context(), q)
	}
	all := func(q protocol.Logs) string {
		var text strings.Builder
		q.Millis = 2000
		for range 1000 {
			l := ask(q)
			if l.Error != "" {
				t.Fatal(l.Error)
			}
			text.Write(l.Data)
			if l.End {
				return text.String()
			}
			q.Next, q.Secrets = true, nil
		}
		t.Fatal("no end")
		return ""
	}
	time.Sleep(300 * time.Millisecond) // the containers print
	if got := all(protocol.Logs{Stream: "s1", Service: "a", Secrets: map[string]protocol.Secret{"WORD": "swordfish"}}); got != "one\nthe word is <WORD>\ntwo\n" {
		t.Errorf("masked: %q", got)
	}
	if got := all(protocol.Logs{Stream: "s2", Service: "a", Tail: 1}); got != "two\n" {
		t.Errorf("the last line: %q", got)
	}
	if got := all(protocol.Logs{Stream: "s3", Tail: 5}); !strings.Contains(got, h.fleet+"-b | three\n") || !strings.Contains(got, h.fleet+"-a | two\n") {
		t.Errorf("of all services: %q", got)
	}
	if l := ask(protocol.Logs{Stream: "s4", Service: "none"}); l.Error == "" || !l.End {
		t.Errorf("of a service that is not there: %+v", l)
	}

	// One that prints without end is read as fast as somebody asks, and no faster.
	q := protocol.Logs{Stream: "s5", Service: "c", Follow: true, Millis: 2000}
	if l := ask(q); len(l.Data) == 0 || len(l.Data) > protocol.LogsChunk || l.End {
		t.Fatalf("%d bytes, end %v, %s", len(l.Data), l.End, l.Error)
	}
	h.agent.streams.mu.Lock()
	s := h.agent.streams.open["s5"]
	h.agent.streams.mu.Unlock()
	time.Sleep(500 * time.Millisecond)
	s.mu.Lock()
	if n := len(s.buf); n > protocol.LogsChunk {
		t.Errorf("%d bytes are kept for nobody", n)
	}
	s.mu.Unlock()
	q.Next = true
	if l := ask(q); len(l.Data) == 0 || l.End {
		t.Errorf("more: %d bytes, end %v, %s", len(l.Data), l.End, l.Error)
	}
	q.Close = true
	ask(q)
	q.Close = false
	if l := ask(q); !l.End || l.Error == "" {
		t.Errorf("after its end: %+v", l)
	}
	for i := range protocol.LogsStreams {
		if l := ask(protocol.Logs{Stream: "f" + string(rune('a'+i)), Service: "c", Follow: true}); l.Error != "" {
			t.Fatal(l.Error)
		}
	}
	if l := ask(protocol.Logs{Stream: "one too many", Service: "c", Follow: true}); !l.End || l.Error == "" {
		t.Errorf("one too many: %+v", l)
	}
}
