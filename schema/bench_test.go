package schema

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// manyFiles are 10,000 resources in 500 files, about 650 bytes each, in ten layers with three after each.
func manyFiles(tb testing.TB, files, perFile int) []File {
	tb.Helper()
	var out []File
	width := max(1, files*perFile/10)
	for f := range files {
		var b strings.Builder
		if f == 0 {
			for s := range 20 {
				fmt.Fprintf(&b, "[[server]]\nname = \"web-%d\"\n\n", s)
			}
		}
		for i := range perFile {
			n := f*perFile + i
			after := ""
			if layer := n / width; layer > 0 {
				base := (layer - 1) * width
				after = fmt.Sprintf("after = [\"svc-%d\", \"svc-%d\", \"svc-%d\"]\n", base+n%width, base+(n+7)%width, base+(n+31)%width)
			}
			fmt.Fprintf(&b, `# the service number %d
[[deployment]]
name = "svc-%d"
description = "answers requests of kind %d"
tags = ["team-%d", "prod"]
%s[deployment.config]
server = "web-%d"
image = { type = "Image", params = { image = "registry.example.com/team/svc:%d.2" } }
network = "bridge"
restart = "unless-stopped"
command = "serve --port 8080 --verbose"
ports = """
%d:8080
"""
environment = """
LOG_LEVEL = info
DATABASE_URL = postgres://svc:[[DB_PASSWORD]]@db.internal:5432/svc
CACHE_SIZE = 128
REGION = eu-central
"""
labels = """
traefik.enable: true
traefik.port: 8080
"""
[deployment.config.image.params2]
`, n, n, n%17, n%9, after, n%20, n%50, 10000+n%50000)
			s := strings.TrimSuffix(b.String(), "[deployment.config.image.params2]\n")
			b.Reset()
			b.WriteString(s + "\n")
		}
		out = append(out, File{Path: fmt.Sprintf("team-%d/svc-%d.toml", f%20, f), Data: []byte(b.String()), Blob: fmt.Sprint("blob", f)})
	}
	return out
}

func checkMany(tb testing.TB, c *Config, diags Diagnostics, want int) {
	tb.Helper()
	if len(diags) > 0 {
		tb.Fatalf("%d diagnostics, first: %+v", len(diags), diags[0])
	}
	if len(c.Resources) != want {
		tb.Fatalf("%d resources, want %d", len(c.Resources), want)
	}
}

// BenchmarkParse10k reads 10,000 resources from bytes; cpu-ms is what the whole process spent on one run.
func BenchmarkParse10k(b *testing.B) {
	files := manyFiles(b, 500, 20)
	size := 0
	for _, f := range files {
		size += len(f.Data)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	start := cpuTime(b)
	var c *Config
	for b.Loop() {
		var diags Diagnostics
		c, diags = Parse(files, Options{})
		checkMany(b, c, diags, 10020)
	}
	b.ReportMetric(float64((cpuTime(b)-start).Milliseconds())/float64(b.N), "cpu-ms/op")
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB-kept")
	runtime.KeepAlive(c)
}

// BenchmarkParse10kOneChanged reads them again after one file changed.
func BenchmarkParse10kOneChanged(b *testing.B) {
	files := manyFiles(b, 500, 20)
	cache := NewCache()
	c, diags := Parse(files, Options{Cache: cache})
	checkMany(b, c, diags, 10020)
	b.ReportAllocs()
	start := cpuTime(b)
	n := 0
	for b.Loop() {
		n++
		files[17].Data = fmt.Appendf(files[17].Data[:len(files[17].Data):len(files[17].Data)], "# %d\n", n)
		files[17].Blob = fmt.Sprint("changed", n)
		c, diags = Parse(files, Options{Cache: cache})
		checkMany(b, c, diags, 10020)
	}
	b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// BenchmarkParse100k shows that it is linear.
func BenchmarkParse100k(b *testing.B) {
	files := manyFiles(b, 5000, 20)
	b.ReportAllocs()
	for b.Loop() {
		c, diags := Parse(files, Options{})
		checkMany(b, c, diags, 100020)
	}
}
