package httpd

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
)

// metrics counts what runs do, and asks the daemon for the rest when it is scraped.
type metrics struct {
	opts    Options
	handler http.Handler
	runs    *prometheus.CounterVec
	steps   *prometheus.CounterVec
	success prometheus.Gauge
	hooks   *prometheus.CounterVec
}

func newMetrics(opts Options) *metrics {
	m := &metrics{opts: opts,
		runs:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "varan_runs_total", Help: "Runs that ended, by status."}, []string{"status"}),
		steps:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "varan_steps_total", Help: "Steps that ended, by action and status."}, []string{"action", "status"}),
		success: prometheus.NewGauge(prometheus.GaugeOpts{Name: "varan_last_success_timestamp_seconds", Help: "When a run last ended with every step done; 0 = not since start."}),
	}
	m.hooks = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "varan_webhooks_total", Help: "Webhooks answered, by status: 202 is kept, 200 not for us or had before."}, []string{"code"})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "varan_build_info", Help: "1, with the version as label.",
		ConstLabels: prometheus.Labels{"version": opts.Version, "go": runtime.Version()}})
	info.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(m.runs, m.steps, m.success, m.hooks, info, statusCollector{opts}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	return m
}

// count counts the answers of h.
func (m *metrics) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &counted{ResponseWriter: w, code: http.StatusOK}
		h.ServeHTTP(c, r)
		m.hooks.WithLabelValues(strconv.Itoa(c.code)).Inc()
	})
}

// counted remembers the status of an answer.
type counted struct {
	http.ResponseWriter
	code int
}

func (c *counted) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap lets deadlines through.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// follow counts what the daemon's runs report.
func (m *metrics) follow(ctx context.Context) error {
	err := m.opts.Daemon.Events(ctx, func(e apply.Event) {
		switch e.Kind {
		case apply.StepDone:
			if e.Step != nil && (e.Action.Changes() || e.Step.Status != apply.StatusDone) {
				m.steps.WithLabelValues(string(e.Action), string(e.Step.Status)).Inc()
			}
		case apply.RunFinished:
			m.runs.WithLabelValues(e.Detail).Inc()
			if e.Detail == string(apply.StatusDone) {
				m.success.SetToCurrentTime()
			}
		}
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		m.opts.Log.Warn("runs are not counted", "err", err)
	}
	return nil
}

// statusCollector reads the daemon's status at each scrape.
type statusCollector struct{ opts Options }

var (
	descReady    = prometheus.NewDesc("varan_ready", "1 when every sync was read and planned.", nil, nil)
	descPaused   = prometheus.NewDesc("varan_paused", "1 while paused.", nil, nil)
	descHolds    = prometheus.NewDesc("varan_holds", "Holds in force, by kind.", []string{"kind"}, nil)
	descDrift    = prometheus.NewDesc("varan_drifted_resources", "Resources whose last plan differs from what runs.", nil, nil)
	descState    = prometheus.NewDesc("varan_resources", "Resources, by state.", []string{"state"}, nil)
	descServers  = prometheus.NewDesc("varan_server_reachable", "1 when the server answers.", []string{"server"}, nil)
	descCPU      = prometheus.NewDesc("varan_server_cpu_ratio", "Share of all cores in use.", []string{"server"}, nil)
	descLoad     = prometheus.NewDesc("varan_server_load1", "Load over one minute.", []string{"server"}, nil)
	descMem      = prometheus.NewDesc("varan_server_memory_used_bytes", "Memory in use.", []string{"server"}, nil)
	descMemAll   = prometheus.NewDesc("varan_server_memory_bytes", "Memory there is.", []string{"server"}, nil)
	descDisk     = prometheus.NewDesc("varan_server_disk_used_bytes", "Bytes in use of a mounted file system.", []string{"server", "mount"}, nil)
	descDiskAll  = prometheus.NewDesc("varan_server_disk_bytes", "Size of a mounted file system.", []string{"server", "mount"}, nil)
	descSrvState = prometheus.NewDesc("varan_server_state", "1 for the state a server is in.", []string{"server", "state"}, nil)
	descSrvInfo  = prometheus.NewDesc("varan_server_info", "1, with a server's versions as labels.", []string{"server", "os", "kernel", "engine", "varan"}, nil)
	descWaiting  = prometheus.NewDesc("varan_agents_waiting", "Agents whose keys no commit enrols.", nil, nil)
	descProblems = prometheus.NewDesc("varan_secret_errors", "Secrets and settings that cannot be read now.", nil, nil)
	descLeader   = prometheus.NewDesc("varan_leader", "1 if this daemon leads, 0 if it follows.", nil, nil)
	descTerm     = prometheus.NewDesc("varan_term", "The leader's term, as far as this daemon knows.", nil, nil)
	descRunning  = prometheus.NewDesc("varan_runs_running", "Runs under way.", nil, nil)
)

func (c statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReady, descPaused, descHolds, descDrift, descState, descServers, descProblems, descRunning,
		descCPU, descLoad, descMem, descMemAll, descDisk, descDiskAll, descSrvState, descSrvInfo, descWaiting, descLeader, descTerm} {
		ch <- d
	}
}

func (c statusCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.opts.Daemon.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descReady, truth(s.Ready))
	gauge(descPaused, truth(s.Paused != nil))
	gauge(descRunning, float64(len(s.Running)))
	kinds := map[plan.HoldKind]int{plan.HoldUser: 0, plan.HoldFailed: 0, plan.HoldContested: 0}
	for _, h := range s.Holds {
		kinds[h.Kind]++
	}
	for k, n := range kinds {
		gauge(descHolds, float64(n), string(k))
	}
	drift, states := 0, map[string]int{}
	for _, r := range s.Resources {
		if r.Action.Changes() {
			drift++
		}
		states[r.State]++
	}
	gauge(descDrift, float64(drift))
	for state, n := range states {
		gauge(descState, float64(n), state)
	}
	for _, srv := range s.Servers {
		gauge(descServers, truth(srv.Unreachable == ""), srv.Name)
		gauge(descSrvState, 1, srv.Name, srv.State)
		f := srv.Figures
		if f == nil {
			continue
		}
		gauge(descSrvInfo, 1, srv.Name, f.OS, f.Kernel, f.Engine, f.Varan)
		if f.MemTotal == 0 {
			continue // stats_monitoring = false
		}
		gauge(descCPU, f.CPU/100, srv.Name)
		gauge(descLoad, f.Load[0], srv.Name)
		gauge(descMem, float64(f.MemUsed), srv.Name)
		gauge(descMemAll, float64(f.MemTotal), srv.Name)
		mounts := map[string]bool{}
		for _, d := range f.Disks {
			if mounts[d.Mount] { // two file systems over one another: one answer a mount
				continue
			}
			mounts[d.Mount] = true
			gauge(descDisk, float64(d.Used), srv.Name, d.Mount)
			gauge(descDiskAll, float64(d.Total), srv.Name, d.Mount)
		}
	}
	if c.opts.Lead != nil {
		l := c.opts.Lead()
		gauge(descLeader, truth(l.Leading))
		gauge(descTerm, float64(l.Term))
	}
	if c.opts.Hub != nil {
		gauge(descWaiting, float64(len(c.opts.Hub.Status().Waiting)))
	}
	problems := 0
	if c.opts.Problems != nil {
		problems = len(c.opts.Problems())
	}
	gauge(descProblems, float64(problems))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
