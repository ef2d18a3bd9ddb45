package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
)

// A Secret is what one forge signs its deliveries with. An empty Value lets nothing in.
type Secret struct {
	Forge  Forge
	Domain string
	Value  string
	// void is compared and never fits.
	void bool
}

// A check finds the secret that a delivery was made with. It compares with every candidate, whatever it found before,
// and with one at least, so that the time it takes tells nothing.
type check struct {
	candidates []Secret
	token      bool // GitLab: the secret itself is sent
	sent       []byte
}

// checkOf reads what a delivery sent as proof: of hmac, the one signature that counts, SHA-256's.
func checkOf(forge Forge, header http.Header, candidates []Secret) *check {
	c := &check{token: forge == GitLab}
	for _, s := range candidates {
		if s.Value != "" || s.void {
			c.candidates = append(c.candidates, s)
		}
	}
	if c.token {
		c.sent = []byte(header.Get("X-Gitlab-Token"))
		return c
	}
	names := []string{"X-Hub-Signature-256"}
	if forge == Gitea || forge == Forgejo {
		names = []string{"X-Forgejo-Signature", "X-Gitea-Signature", "X-Hub-Signature-256"}
	}
	for _, name := range names {
		if v := header.Get(name); v != "" {
			sent, err := hex.DecodeString(strings.TrimPrefix(v, "sha256="))
			if err == nil && len(sent) == sha256.Size {
				c.sent = sent
			}
			break
		}
	}
	return c
}

// find is the secret that fits the body; false if none does.
func (c *check) find(body []byte) (Secret, bool) {
	all := c.candidates
	if len(all) == 0 {
		all = []Secret{{void: true}}
	}
	var found Secret
	ok := false
	for _, s := range all {
		if c.fits(s.Value, body) && s.Value != "" && !s.void && !ok {
			found, ok = s, true
		}
	}
	return found, ok && len(c.sent) > 0
}

func (c *check) fits(secret string, body []byte) bool {
	if c.token {
		want, sent := sha256.Sum256([]byte(secret)), sha256.Sum256(c.sent)
		return subtle.ConstantTimeCompare(want[:], sent[:]) == 1
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hmac.Equal(mac.Sum(nil), c.sent)
}
