package host

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	psutil "github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/varanhq/varan/agent/protocol"
)

// maxDisks bounds what is told of a machine with a mount for every container.
const maxDisks = 64

// A Reader reads figures. CPU is what was used between two readings, so one Reader serves one purpose.
type Reader struct {
	// Engine tells the engine's version and that of its API; an error says that it does not answer.
	Engine func(context.Context) (version, api string, err error)
	// Compose and Varan are the versions of this program's parts.
	Compose, Varan string

	mu    sync.Mutex // guards what follows
	still protocol.Figures
	busy  float64 // CPU seconds used and passed, at the reading before
	all   float64
}

// Read tells how the machine stands now. What cannot be told is left zero: figures are for people, and half of them
// are better than none.
func (r *Reader) Read(ctx context.Context) protocol.Figures {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.still.Version == 0 {
		r.still = r.once(ctx)
	}
	f := r.still
	f.CPU = r.used(ctx)
	if l, err := load.AvgWithContext(ctx); err == nil {
		f.Load = [3]float64{l.Load1, l.Load5, l.Load15}
	}
	if m, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		f.MemTotal, f.MemUsed = m.Total, m.Total-min(m.Available, m.Total)
	}
	if s, err := mem.SwapMemoryWithContext(ctx); err == nil {
		f.SwapTotal, f.SwapUsed = s.Total, s.Used
	}
	f.Disks = disks(ctx)
	if r.Engine != nil {
		version, api, err := r.Engine(ctx)
		if err != nil {
			f.Problem = "the Docker engine does not answer: " + err.Error()
		}
		f.Engine, f.API = version, api
	}
	return f
}

// once reads what stays as it is for as long as this process lives.
func (r *Reader) once(ctx context.Context) protocol.Figures {
	f := protocol.Figures{Version: protocol.Version, Cores: runtime.NumCPU(), Arch: runtime.GOARCH, OS: runtime.GOOS, Compose: r.Compose, Varan: r.Varan}
	if n, err := cpu.CountsWithContext(ctx, true); err == nil && n > 0 {
		f.Cores = n
	}
	if name, _, version, err := psutil.PlatformInformationWithContext(ctx); err == nil && name != "" {
		f.OS = strings.TrimSpace(name + " " + version)
	}
	if k, err := psutil.KernelVersionWithContext(ctx); err == nil {
		f.Kernel = k
	}
	if t, err := psutil.BootTimeWithContext(ctx); err == nil {
		f.Boot = time.Unix(int64(t), 0).UTC()
	}
	return f
}

// used is the share of all cores that was busy since it was last asked; the first time, since the machine started.
func (r *Reader) used(ctx context.Context) float64 {
	list, err := cpu.TimesWithContext(ctx, false)
	if err != nil || len(list) == 0 {
		return 0
	}
	t := list[0]
	idle := t.Idle + t.Iowait
	busy := t.User + t.Nice + t.System + t.Irq + t.Softirq + t.Steal
	part, whole := busy-r.busy, busy+idle-r.all
	r.busy, r.all = busy, busy+idle
	if whole <= 0 {
		return 0
	}
	return math.Round(10*min(max(100*part/whole, 0), 100)) / 10
}

// disks are the file systems on disks that can be written, each once: what is mounted in several places is told at the
// shortest path. Images mounted read-only are full by nature.
func disks(ctx context.Context) []protocol.Disk {
	list, err := disk.PartitionsWithContext(ctx, false)
	if err != nil {
		return nil
	}
	slices.SortFunc(list, func(a, b disk.PartitionStat) int {
		return cmp.Or(cmp.Compare(len(a.Mountpoint), len(b.Mountpoint)), cmp.Compare(a.Mountpoint, b.Mountpoint))
	})
	out := []protocol.Disk{}
	seen := map[string]bool{}
	for _, p := range list {
		if seen[p.Device] || len(out) == maxDisks {
			continue
		}
		switch p.Fstype {
		case "squashfs", "iso9660", "erofs", "udf":
			continue
		}
		u, err := disk.UsageWithContext(ctx, p.Mountpoint)
		if err != nil || u.Total == 0 {
			continue
		}
		seen[p.Device] = true
		// As df has it: a disk is full when nobody but root can write to it.
		out = append(out, protocol.Disk{Mount: p.Mountpoint, FS: p.Fstype, Used: u.Used, Total: u.Used + u.Free})
	}
	slices.SortFunc(out, func(a, b protocol.Disk) int { return cmp.Compare(a.Mount, b.Mount) })
	return out
}
