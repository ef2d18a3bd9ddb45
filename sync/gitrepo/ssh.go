package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshRemote runs git-upload-pack on the remote, one connection a conversation. It reads no agent, no ssh
// config and no default key: the key is the credential's, the host's must be in our known_hosts.
type sshRemote struct {
	addr       Address
	cred       *Credential
	knownHosts string
	dial       *net.Dialer
}

func (t *sshRemote) close() {}

func (t *sshRemote) open(ctx context.Context) (conversation, error) {
	if t.cred == nil || t.cred.SSHKey == "" {
		return nil, fmt.Errorf("%w: no ssh key is set for %s in [[git_provider]]", ErrAuth, t.addr.authority())
	}
	signer, err := ssh.ParsePrivateKey([]byte(t.cred.SSHKey))
	if err != nil {
		return nil, fmt.Errorf("%w: read the ssh key of %s: %v", ErrAuth, t.cred, keyError(err))
	}
	check, algorithms, err := t.hostKeys()
	if err != nil {
		return nil, err
	}
	conn, err := t.dial.DialContext(ctx, "tcp", t.addr.hostPort())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c, channels, requests, err := ssh.NewClientConn(conn, t.addr.hostPort(), &ssh.ClientConfig{
		User:              t.addr.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: algorithms,
		ClientVersion:     "SSH-2.0-varan",
	})
	if err != nil {
		stop()
		_ = conn.Close()
		if strings.Contains(err.Error(), "unable to authenticate") {
			return nil, fmt.Errorf("%w: user %s, key %s", ErrAuth, t.addr.User, ssh.FingerprintSHA256(signer.PublicKey()))
		}
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	if ctx.Err() != nil { // the deadline above may have been undone by the line before
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	talk := &sshTalk{client: ssh.NewClient(c, channels, requests), stop: stop}
	if err := talk.start(t.remotePath()); err != nil {
		talk.close()
		return nil, err
	}
	return talk, nil
}

func (t *sshRemote) remotePath() string {
	if t.addr.Home {
		return strings.TrimPrefix(t.addr.Path, "/")
	}
	return t.addr.Path
}

// keyError says whether a passphrase is the problem, and nothing of the key.
func keyError(err error) string {
	if pe := (*ssh.PassphraseMissingError)(nil); errors.As(err, &pe) {
		return "it has a passphrase; give a key without one"
	}
	return "not a private key in PEM or OpenSSH form"
}

// hostKeys checks against known_hosts, and prefers the key types it lists for this host, so that a host with
// several keys shows one we know.
func (t *sshRemote) hostKeys() (ssh.HostKeyCallback, []string, error) {
	known := func(string, net.Addr, ssh.PublicKey) error { return &knownhosts.KeyError{} }
	if t.knownHosts != "" {
		k, err := knownhosts.New(t.knownHosts)
		if err != nil {
			return nil, nil, fmt.Errorf("read known_hosts: %w", err)
		}
		known = k
	}
	var algorithms []string
	probe := &knownhosts.KeyError{}
	if err := known(t.addr.hostPort(), &net.TCPAddr{}, noKey{}); errors.As(err, &probe) {
		for _, w := range probe.Want {
			algorithms = append(algorithms, algorithmsFor(w.Key.Type())...)
		}
	}
	check := func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := known(host, remote, key)
		ke := (*knownhosts.KeyError)(nil)
		if !errors.As(err, &ke) {
			return err
		}
		line := knownhosts.Line([]string{knownhosts.Normalize(t.addr.hostPort())}, key)
		if len(ke.Want) > 0 {
			return fmt.Errorf("the host key of %s is not the one in %s (line %d): %s; someone may be in between, or the key was changed",
				t.addr.authority(), ke.Want[0].Filename, ke.Want[0].Line, ssh.FingerprintSHA256(key))
		}
		return fmt.Errorf("the host key of %s is not known (%s); if it is the right one, add this line to the known_hosts file: %s",
			t.addr.authority(), ssh.FingerprintSHA256(key), line)
	}
	return check, algorithms, nil
}

func algorithmsFor(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// noKey equals no host's key: it makes knownhosts say which ones it wants.
type noKey struct{}

func (noKey) Type() string                        { return "varan-none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

type sshTalk struct {
	client  *ssh.Client
	session *ssh.Session
	in      io.WriteCloser
	out     io.Reader
	errs    tail
	adv     *packp.AdvRefs
	stop    func() bool
}

func (c *sshTalk) start(path string) (err error) {
	if c.session, err = c.client.NewSession(); err != nil {
		return fmt.Errorf("open an ssh session: %w", err)
	}
	if c.in, err = c.session.StdinPipe(); err != nil {
		return err
	}
	if c.out, err = c.session.StdoutPipe(); err != nil {
		return err
	}
	c.session.Stderr = &c.errs
	if err := c.session.Start("git-upload-pack " + shellQuote(path)); err != nil {
		return fmt.Errorf("start git-upload-pack: %w", err)
	}
	c.adv, err = advertised(c.out, maxRefs)
	if err != nil && !errors.Is(err, ErrEmpty) {
		// Without refs there is only what it printed to tell a missing repository from a refusal.
		_ = c.session.Wait()
		said := c.errs.String()
		if said != "" {
			return fmt.Errorf("%w, or it may not be read: the remote says %q", ErrNotFound, said)
		}
	}
	return err
}

func (c *sshTalk) refs() *packp.AdvRefs { return c.adv }

func (c *sshTalk) pack(_ context.Context, req *packp.UploadPackRequest) (io.ReadCloser, error) {
	if err := encode(c.in, req); err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	if err := c.in.Close(); err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	return io.NopCloser(c.out), nil
}

func (c *sshTalk) close() {
	c.stop()
	_ = c.client.Close()
}

// tail keeps the first 2 kB a remote prints to stderr.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[:min(len(p), 2048-len(t.b))]...)
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }

// shellQuote makes one word of a path for the remote's shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
