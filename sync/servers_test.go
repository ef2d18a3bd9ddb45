package sync

import (
	"slices"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/schema"
)

func TestJudge(t *testing.T) {
	const gb = 1 << 30
	config := func(change func(*schema.ServerConfig)) *schema.ServerConfig {
		c := serverConfig(nil, "")
		if change != nil {
			change(c)
		}
		return c
	}
	well := protocol.Figures{CPU: 12, MemUsed: 1 * gb, MemTotal: 4 * gb, Disks: []protocol.Disk{{Mount: "/", Used: 10 * gb, Total: 20 * gb}}, Engine: "27.1"}
	full := well
	full.Disks = []protocol.Disk{{Mount: "/", Used: 1, Total: 100}, {Mount: "/data", Used: 76, Total: 100}, {Mount: "/mnt/backup", Used: 99, Total: 100}}
	hot := full
	hot.CPU = 99.5
	sick := well
	sick.Problem = "the Docker engine does not answer"
	window := schema.Window{Name: "patches", ScheduleType: "Daily", DurationMinutes: 1440, Enabled: true}
	for _, c := range []struct {
		name    string
		config  *schema.ServerConfig
		figures *protocol.Figures
		gone    string
		want    string
		why     []string
	}{
		{"well", config(nil), &well, "", ServerOK, nil},
		{"nothing said yet", config(nil), nil, "", ServerOK, nil},
		{"a disk is critical", config(nil), &full, "", ServerCritical, []string{"disk /data 76 %", "disk /mnt/backup 99 %"}},
		{"mounts left out", config(func(c *schema.ServerConfig) { c.IgnoreMounts = []string{"/mnt"} }), &full, "", ServerWarning, []string{"disk /data 76 %"}},
		{"other thresholds", config(func(c *schema.ServerConfig) { c.DiskWarning, c.DiskCritical = 99.5, 100 }), &full, "", ServerOK, nil},
		{"the worst counts", config(nil), &hot, "", ServerCritical, []string{"CPU 100 %", "disk /data 76 %", "disk /mnt/backup 99 %"}},
		{"no figures wanted", config(func(c *schema.ServerConfig) { c.StatsMonitoring = false }), &hot, "", ServerOK, nil},
		{"the engine is gone", config(nil), &sick, "", ServerCritical, []string{"the Docker engine does not answer"}},
		{"unreachable", config(nil), nil, "not connected", ServerUnreachable, nil},
		{"maintenance", config(func(c *schema.ServerConfig) { c.MaintenanceWindows = []schema.Window{window} }), nil, "not connected", ServerMaintenance, nil},
		{"disabled", config(func(c *schema.ServerConfig) { c.Enabled = false }), &hot, "", ServerDisabled, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ServerStatus{Unreachable: c.gone}
			s.judge(c.config, c.figures, time.Now(), zones)
			if s.State != c.want || !slices.Equal(s.Why, c.why) {
				t.Errorf("state %s because %q, want %s because %q", s.State, s.Why, c.want, c.why)
			}
		})
	}
}
