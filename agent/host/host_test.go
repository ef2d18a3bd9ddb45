package host

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	r := &Reader{Compose: "5.0.2", Varan: "1.0", Engine: func(context.Context) (string, string, error) { return "20.10", "1.41", nil }}
	f := r.Read(t.Context())
	if f.Version == 0 || f.Cores < 1 || f.MemTotal == 0 || f.MemUsed == 0 || f.MemUsed >= f.MemTotal || f.Kernel == "" || f.OS == "" || f.Boot.IsZero() || f.Boot.After(time.Now()) {
		t.Errorf("figures = %+v", f)
	}
	if f.Engine != "20.10" || f.API != "1.41" || f.Compose != "5.0.2" || f.Varan != "1.0" || f.Problem != "" {
		t.Errorf("versions = %+v", f)
	}
	if want, _ := os.ReadFile("/proc/sys/kernel/osrelease"); f.Kernel != strings.TrimSpace(string(want)) {
		t.Errorf("kernel = %q, want %q", f.Kernel, want)
	}
	for _, d := range f.Disks {
		if d.Total == 0 || d.Used > d.Total || d.Percent() < 0 || d.Percent() > 100 || !strings.HasPrefix(d.Mount, "/") {
			t.Errorf("disk = %+v", d)
		}
	}
	until := time.Now().Add(150 * time.Millisecond) // keep one core busy
	for time.Now().Before(until) {
	}
	if f := r.Read(t.Context()); f.CPU <= 0 || f.CPU > 100 {
		t.Errorf("CPU = %v after a busy while", f.CPU)
	}
}

func TestReadWithoutEngine(t *testing.T) {
	r := &Reader{Engine: func(context.Context) (string, string, error) { return "", "", errors.New("connection refused") }}
	if f := r.Read(t.Context()); !strings.Contains(f.Problem, "connection refused") || f.MemTotal == 0 {
		t.Errorf("figures = %+v", f)
	}
}

// An agent reads every 30 s and may use 0.1 % of a core idle: 30 ms.
func TestReadIsCheap(t *testing.T) {
	r := &Reader{}
	r.Read(t.Context())
	began := time.Now()
	const n = 20
	for range n {
		r.Read(t.Context())
	}
	if each := time.Since(began) / n; each > 10*time.Millisecond {
		t.Errorf("a reading took %s", each)
	}
}
