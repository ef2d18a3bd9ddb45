package protocol

import "time"

// FiguresEvery is how often an agent tells its Figures.
const FiguresEvery = 30 * time.Second

// Figures tell how an agent's machine stands. They are told unasked and may be lost; no plan depends on them.
type Figures struct {
	Version int `json:"version"`

	CPU   float64    `json:"cpu"` // percent of all cores, since the Figures before
	Cores int        `json:"cores"`
	Load  [3]float64 `json:"load"` // over 1, 5 and 15 minutes

	MemUsed   uint64 `json:"mem_used"` // bytes, without what the kernel gives back when asked
	MemTotal  uint64 `json:"mem_total"`
	SwapUsed  uint64 `json:"swap_used,omitempty"`
	SwapTotal uint64 `json:"swap_total,omitempty"`
	Disks     []Disk `json:"disks"`

	Boot   time.Time `json:"boot,omitzero"`
	OS     string    `json:"os"` // "debian 12.5"
	Arch   string    `json:"arch"`
	Kernel string    `json:"kernel"`

	Engine  string `json:"engine,omitempty"`  // version of the Docker engine; "" = it does not answer
	API     string `json:"api,omitempty"`     // of the engine
	Compose string `json:"compose,omitempty"` // version of the library stacks are made with
	Varan   string `json:"varan"`             // version of the agent

	// Problem is what keeps the agent from its work, in its own words: the engine is gone, the disk is full.
	Problem string `json:"problem,omitempty"`
}

// A Disk is one mounted file system.
type Disk struct {
	Mount string `json:"mount"`
	FS    string `json:"fs"`
	Used  uint64 `json:"used"` // bytes
	Total uint64 `json:"total"`
}

// Percent is how full it is, as df counts: what only root may still use is not free.
func (d Disk) Percent() float64 { return percent(d.Used, d.Total) }

// MemPercent is how much of the memory is used.
func (f *Figures) MemPercent() float64 { return percent(f.MemUsed, f.MemTotal) }

func percent(part, all uint64) float64 {
	if all == 0 {
		return 0
	}
	return 100 * float64(part) / float64(all)
}
