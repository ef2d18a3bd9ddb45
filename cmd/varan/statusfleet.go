package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/report"
)

// fewServers is up to how many are listed though they are well.
const fewServers = 20

// serverTable shows the servers at a glance: of a large fleet those that are not well, or all.
func serverTable(servers []sync.ServerStatus, all bool, t report.Terminal) string {
	var rows [][]string
	well := 0
	for i := range servers {
		s := &servers[i]
		if s.State == sync.ServerOK && !all && len(servers) > fewServers {
			well++
			continue
		}
		rows = append(rows, serverRow(s))
	}
	text := ""
	if len(rows) > 0 {
		text = "\n" + report.Table([]string{"server", "state", "resources", "containers", "cpu", "memory", "disk", "load", "engine", "varan", "because"}, rows, t)
	}
	if well > 0 {
		text += fmt.Sprintf("\n%d of %d servers are well.\n", well, len(servers))
	}
	return text
}

func serverRow(s *sync.ServerStatus) []string {
	e := report.Escape
	because := e(strings.Join(s.Why, ", "))
	if s.Unreachable != "" {
		because = e(s.Unreachable)
	}
	if s.Maintenance != "" {
		because = strings.TrimSuffix("window "+e(s.Maintenance)+", "+because, ", ")
	}
	row := []string{e(s.Name), s.State, fmt.Sprint(s.Resources), fmt.Sprint(s.Containers), "", "", "", "", "", "", because}
	if f := s.Figures; f != nil {
		if f.MemTotal > 0 {
			row[4], row[5] = fmt.Sprintf("%.0f %%", f.CPU), fmt.Sprintf("%.0f %% of %s", f.MemPercent(), size(f.MemTotal))
			row[7] = fmt.Sprintf("%.2f", f.Load[0])
		}
		if d := fullest(f.Disks); d != nil {
			row[6] = fmt.Sprintf("%.0f %% of %s", d.Percent(), e(d.Mount))
		}
		row[8], row[9] = e(f.Engine), e(f.Varan)
	}
	return row
}

func fullest(disks []protocol.Disk) *protocol.Disk {
	var most *protocol.Disk
	for i := range disks {
		if most == nil || disks[i].Percent() > most.Percent() {
			most = &disks[i]
		}
	}
	return most
}

// size is bytes as people say them.
func size(n uint64) string {
	const gib = 1 << 30
	if n < gib {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/gib)
}

// waitingText lists the agents whose keys no commit enrols.
func waitingText(h *fleet.Status, now time.Time) string {
	if h == nil || len(h.Waiting) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\nagents that wait for their key to be committed (varan status --toml):\n")
	for _, w := range h.Waiting {
		fmt.Fprintf(&b, "  %s  from %s since %s", report.Escape(w.Key), w.From, ago(now, w.Since))
		if w.Claim != "" {
			fmt.Fprintf(&b, ", calls itself %s", report.Escape(w.Claim))
		}
		if w.Revoked {
			b.WriteString(", was locked out by varan agent revoke")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// waitingTOML is what enrols them. Names are claims: whoever commits it looks at them.
func waitingTOML(h *fleet.Status) string {
	if h == nil {
		return ""
	}
	var b strings.Builder
	for i, w := range h.Waiting {
		if w.Revoked {
			continue
		}
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(w.TOML())
	}
	return b.String()
}
