package e2e

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
)

// rounds is how often a campaign is run: few in the suite, many in soak.
func rounds(suite, soak int) int {
	if os.Getenv("SOAK") != "" {
		return soak
	}
	return suite
}

// fleet30 declares 30 deployments in chains of three, all at one version.
func fleet30(version string) string {
	var b strings.Builder
	for i := range 30 {
		after := ""
		if i%3 != 0 {
			after = fmt.Sprintf(`after = ["ID-%02d"]`, i-1)
		}
		b.WriteString(strings.Replace(one(fmt.Sprintf("%02d", i), after), "K = x", "K = "+version, 1))
	}
	return b.String()
}

// TestKill: the daemon, killed with -9 at random moments of an apply of 30 resources, ends with what is
// declared, and no container op has run twice.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 1))
	w.write(map[string]string{"a.toml": fleet30("v0")})
	w.commit("v0")

	d := w.daemon()
	for round := range rounds(5, 100) {
		start := time.Now()
		version := fmt.Sprintf("v%d", round+1)
		w.write(map[string]string{"a.toml": fleet30(version)})
		w.commit(version)
		pause := time.NewTimer(time.Duration(random.IntN(6000)) * time.Millisecond)
		<-pause.C
		d.kill()
		d = w.daemon()
		w.eventually("declared equals observed after kill -9 in round "+version, 2*time.Minute, func() (bool, string) {
			running := 0
			for _, c := range w.containers(true) {
				if c.State == "running" && c.Labels["varan.resource"] != "" {
					running++
				}
			}
			if running != 30 || len(w.containers(true)) != 30 {
				return false, w.names()
			}
			return w.versions(version), w.names()
		})
		for what, n := range w.opsSince(start) {
			if n > 1 {
				t.Errorf("round %s: %s happened %d times", version, what, n)
			}
		}
		if t.Failed() {
			break
		}
	}
	w.settled()
	d.stop()
	w.nothingToDo()
}

// versions reports whether every container's K is version.
func (w *world) versions(version string) bool {
	for _, c := range w.containers(true) {
		in, err := w.docker.ContainerInspect(context.Background(), c.ID)
		if err != nil || !strings.Contains(strings.Join(in.Config.Env, "\n"), "K="+version) {
			return false
		}
	}
	return true
}

// opsSince counts creates and starts per resource and digest.
func (w *world) opsSince(since time.Time) map[string]int {
	w.t.Helper()
	counts := map[string]int{}
	for _, m := range w.recorded(since) {
		if a := m.Actor.Attributes; (m.Action == events.ActionCreate || m.Action == events.ActionStart) && a["varan.resource"] != "" {
			counts[string(m.Action)+" "+a["varan.resource"]+" "+a["varan.digest"]]++
		}
	}
	return counts
}
