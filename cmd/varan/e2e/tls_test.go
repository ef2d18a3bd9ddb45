package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An authority signs certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	var der []byte
	a.key, der = a.sign(a.cert, a.cert, nil)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func (a *authority) sign(cert, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, by)
	must(a.t, err)
	return key, der
}

// issue gives a certificate and its key as PEM.
func (a *authority) issue(serial int64) (cert, key []byte) {
	a.t.Helper()
	k, der := a.sign(&x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "varan"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, a.cert, a.key)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// address is where the daemon's HTTP listens.
func (w *world) address() string {
	w.t.Helper()
	_, addr, found := strings.Cut(w.log()[strings.LastIndex(w.log(), "ready for commands"):], "http=")
	if !found {
		w.t.Fatalf("no address in the log:\n%s", w.log())
	}
	return strings.Fields(addr)[0]
}

// TestTLS: the HTTP surface speaks TLS with the files of varan.toml, takes renewed ones up without a restart, keeps
// the old certificate while the files are broken and says so, and does not start with files that never were good.
func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t)
	put := func(cert, key []byte) {
		must(t, os.WriteFile(filepath.Join(w.dir, "tls.crt"), cert, 0o600))
		must(t, os.WriteFile(filepath.Join(w.dir, "tls.key"), key, 0o600))
	}
	w.configure("tls_cert_file = \"tls.crt\"\ntls_key_file = \"tls.key\"\n---\n[config]\npoll = \"1s\"\n") // relative to varan.toml
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	for what, cert := range map[string]string{"gone": "", "broken": "no certificate"} {
		if cert != "" {
			put([]byte(cert), []byte(cert))
		}
		if r := w.varan("serve", "--repo", w.repo, "--listen", "127.0.0.1:0"); r.exit != 1 || !strings.Contains(r.stderr, "tls.crt") {
			t.Errorf("%s: exit %d, %s%s", what, r.exit, r.stdout, r.stderr)
		}
	}

	put(ca.issue(11))
	d := w.daemonOn("127.0.0.1:0")
	w.good(first)
	base := "https://" + w.address()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	get := func(config *tls.Config) (serial int64, err error) {
		config.RootCAs = pool
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		res, err := c.Get(base + "/healthz")
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		return res.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if serial, err := get(&tls.Config{}); err != nil || serial != 11 {
		t.Fatalf("certificate %d: %v", serial, err)
	}
	if _, err := get(&tls.Config{MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if res, err := http.Get(strings.Replace(base, "https", "http", 1) + "/healthz"); err == nil {
		if res.Body.Close(); res.StatusCode == http.StatusOK {
			t.Error("plain HTTP is answered")
		}
	}

	put(ca.issue(12))
	if serial, err := get(&tls.Config{}); err != nil || serial != 12 {
		t.Errorf("after a renewal: certificate %d: %v", serial, err)
	}
	cert, key := ca.issue(13)
	put(cert, key[:len(key)/2]) // half written
	if serial, err := get(&tls.Config{}); err != nil || serial != 12 {
		t.Errorf("half written: certificate %d: %v", serial, err)
	}
	w.until("it is told", func(s standing) bool { return len(s.Problems) == 1 && strings.Contains(s.Problems[0], "tls_cert_file") })
	put(cert, key)
	if serial, err := get(&tls.Config{}); err != nil || serial != 13 {
		t.Errorf("whole: certificate %d: %v", serial, err)
	}
	w.until("well again", func(s standing) bool { return len(s.Problems) == 0 })

	// The command line from elsewhere.
	must(t, os.WriteFile(filepath.Join(w.dir, "ca.crt"), ca.PEM, 0o600))
	token, err := os.ReadFile(filepath.Join(w.data, "read-token"))
	must(t, err)
	far := w.in(t)
	far.extra = []string{"VARAN_URL=" + base, "VARAN_TOKEN=" + string(bytes.TrimSpace(token))}
	if r := far.varan("status"); r.exit != 1 || !strings.Contains(r.stderr, "certificate") {
		t.Errorf("an authority nobody knows: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	far.extra = append(far.extra, "SSL_CERT_FILE="+filepath.Join(w.dir, "ca.crt"))
	if r := far.varan("status"); r.exit != 0 || !strings.Contains(r.stdout, "fleet "+w.id) {
		t.Errorf("exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	if r := far.varan("pause", "x"); r.exit != 1 || !strings.Contains(r.stderr, "operate") {
		t.Errorf("a read token acts: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	d.stop()
}
