package fleettest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A Cluster is some NATS servers with real routes and JetStream folders, as docs/nats-server.conf has them.
type Cluster struct {
	t       testing.TB
	dir     string
	auth    string // what varan key --nats prints
	ips     []net.IP
	ports   []string // of clients
	routes  []string
	edit    func(conf string) string
	Servers []*server.Server // nil = down
}

// NewCluster starts n servers that know the daemons by what auth says; they listen on all addresses, and their
// certificates are for ips.
func NewCluster(t testing.TB, n int, auth string, ips ...net.IP) *Cluster {
	t.Helper()
	return NewClusterOf(t, n, auth, func(conf string) string { return conf }, ips...)
}

// NewClusterOf is NewCluster with another configuration than that in docs.
func NewClusterOf(t testing.TB, n int, auth string, edit func(conf string) string, ips ...net.IP) *Cluster {
	t.Helper()
	c := &Cluster{t: t, dir: t.TempDir(), auth: auth, edit: edit, ips: append(ips, net.IPv4(127, 0, 0, 1)), Servers: make([]*server.Server, n)}
	for range n {
		c.ports = append(c.ports, freePort(t))
		c.routes = append(c.routes, freePort(t))
	}
	if err := c.certificate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := range c.Servers {
			c.Stop(i)
		}
	})
	c.Start()
	return c
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// URL is where daemons and agents find the servers at that address.
func (c *Cluster) URL(host string) string {
	var all []string
	for _, port := range c.ports {
		all = append(all, "tls://"+net.JoinHostPort(host, port))
	}
	return strings.Join(all, ",")
}

// CAFile holds the authority of the servers' certificates.
func (c *Cluster) CAFile() string { return filepath.Join(c.dir, "tls.crt") }

func (c *Cluster) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, IPAddresses: c.ips, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(c.CAFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(c.dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
}

// Start starts the servers that are down and waits until all of them are one cluster.
func (c *Cluster) Start() {
	c.t.Helper()
	for i, s := range c.Servers {
		if s != nil {
			continue
		}
		opts, err := server.ProcessConfigFile(c.write(i))
		if err != nil {
			c.t.Fatal(err)
		}
		opts.NoSigs, opts.NoLog = true, true
		if c.Servers[i], err = server.NewServer(opts); err != nil {
			c.t.Fatal(err)
		}
		go c.Servers[i].Start()
	}
	deadline := time.Now().Add(90 * time.Second) // on a machine that does much else
	for _, s := range c.Servers {
		for !s.ReadyForConnections(time.Second) || len(c.Servers) > 1 && (s.NumRoutes() == 0 || !led(c.Servers)) {
			if time.Now().After(deadline) {
				c.t.Fatal("the NATS cluster does not come about")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func led(servers []*server.Server) bool {
	for _, s := range servers {
		if s != nil && s.JetStreamIsLeader() {
			return true
		}
	}
	return false
}

// write makes a server's configuration of the one in docs.
func (c *Cluster) write(i int) string {
	c.t.Helper()
	text := ""
	for at := "docs"; ; at = filepath.Join("..", at) {
		data, err := os.ReadFile(filepath.Join(at, "nats-server.conf"))
		if err == nil {
			text = string(data)
			break
		}
		if len(at) > 100 {
			c.t.Fatal(err)
		}
	}
	name := fmt.Sprintf("nats%d", i+1)
	dir := filepath.Join(c.dir, name)
	var routes []string
	for _, port := range c.routes {
		routes = append(routes, "nats://127.0.0.1:"+port)
	}
	for _, r := range [][2]string{
		{"server_name: nats1", "server_name: " + name}, {"0.0.0.0:4222", "0.0.0.0:" + c.ports[i]}, {"0.0.0.0:6222", "127.0.0.1:" + c.routes[i]},
		{"/etc/nats/tls.crt", c.CAFile()}, {"/etc/nats/tls.key", filepath.Join(c.dir, "tls.key")}, {"/var/lib/nats", filepath.Join(dir, "store")},
		{"nats://nats1:6222, nats://nats2:6222, nats://nats3:6222", strings.Join(routes, ", ")},
	} {
		if !strings.Contains(text, r[0]) {
			c.t.Fatalf("docs/nats-server.conf has no %q", r[0])
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	if len(c.Servers) == 1 {
		at := strings.Index(text, "cluster {")
		text = text[:at] + text[at+strings.Index(text[at:], "}")+1:]
	}
	text = c.edit(text)
	path := filepath.Join(dir, "nats-server.conf")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "varan.conf"), []byte(c.auth), 0o600)); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// Stop ends a server.
func (c *Cluster) Stop(i int) {
	if s := c.Servers[i]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
		c.Servers[i] = nil
	}
}

// Erase ends all servers, removes what they stored, and starts them again.
func (c *Cluster) Erase() {
	c.t.Helper()
	for i := range c.Servers {
		c.Stop(i)
	}
	for i := range c.Servers {
		if err := os.RemoveAll(filepath.Join(c.dir, fmt.Sprintf("nats%d", i+1), "store")); err != nil {
			c.t.Fatal(err)
		}
	}
	c.Start()
}
