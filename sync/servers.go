package sync

import (
	"fmt"
	"strings"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/schema"
)

// How a server stands.
const (
	ServerOK          = "ok"
	ServerWarning     = "warning"
	ServerCritical    = "critical"
	ServerUnreachable = "unreachable"
	ServerDisabled    = "disabled"
	ServerMaintenance = "maintenance"
)

// serverConfig is what the files say of a server; the defaults where they say nothing.
func serverConfig(c *schema.Config, name string) *schema.ServerConfig {
	if c != nil {
		if r := c.Get(schema.NewID(schema.KindServer, name)); r != nil {
			if s, ok := r.Config.(*schema.ServerConfig); ok {
				return s
			}
		}
	}
	return &schema.ServerConfig{Enabled: true, StatsMonitoring: true, AutoPrune: schema.PruneOurs,
		CPUWarning: 90, CPUCritical: 99, MemWarning: 75, MemCritical: 95, DiskWarning: 75, DiskCritical: 95}
}

// judge fills in how a server stands by its figures and what the files say of it.
func (s *ServerStatus) judge(c *schema.ServerConfig, f *protocol.Figures, now time.Time, zones schema.Zones) {
	s.Region, s.Maintenance = c.Region, c.Maintenance(now, zones)
	level := 0
	if f != nil {
		shown := *f
		shown.Disks = nil
		for _, d := range f.Disks {
			if !ignored(c.IgnoreMounts, d.Mount) {
				shown.Disks = append(shown.Disks, d)
			}
		}
		if !c.StatsMonitoring {
			shown = protocol.Figures{Version: f.Version, OS: f.OS, Arch: f.Arch, Kernel: f.Kernel, Engine: f.Engine, API: f.API, Compose: f.Compose, Varan: f.Varan, Problem: f.Problem}
		}
		s.Figures = &shown
		over := func(value, warning, critical float64, what string) {
			switch {
			case value >= critical:
				level = max(level, 2)
			case value >= warning:
				level = max(level, 1)
			default:
				return
			}
			s.Why = append(s.Why, what)
		}
		if c.StatsMonitoring {
			over(f.CPU, c.CPUWarning, c.CPUCritical, fmt.Sprintf("CPU %.0f %%", f.CPU))
			over(f.MemPercent(), c.MemWarning, c.MemCritical, fmt.Sprintf("memory %.0f %%", f.MemPercent()))
			for _, d := range shown.Disks {
				over(d.Percent(), c.DiskWarning, c.DiskCritical, fmt.Sprintf("disk %s %.0f %%", d.Mount, d.Percent()))
			}
		}
		if f.Problem != "" {
			level = 2
			s.Why = append(s.Why, f.Problem)
		}
	}
	switch {
	case !c.Enabled:
		s.State, s.Why = ServerDisabled, nil
	case s.Maintenance != "":
		s.State = ServerMaintenance
	case s.Unreachable != "":
		s.State = ServerUnreachable
	default:
		s.State = [...]string{ServerOK, ServerWarning, ServerCritical}[level]
	}
}

// ignored reports whether a mount lies under one of the prefixes.
func ignored(prefixes []string, mount string) bool {
	for _, p := range prefixes {
		if p != "" && strings.HasPrefix(mount, p) {
			return true
		}
	}
	return false
}

// zones finds time zones on this machine.
func zones(name string) *time.Location {
	if name == "" {
		return time.Local
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil
	}
	return zone
}
