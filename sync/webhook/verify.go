package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
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
	// GitLab with a signing token: what was signed before the body, and the signatures, one of which must fit.
	before []byte
	signed [][]byte
}

// maxSignatures of one delivery: a sender that changes its key sends two.
const maxSignatures = 4

// standard reads signatures in the form of Standard Webhooks, over id, time and body.
func (c *check) standard(header http.Header) {
	id, at := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
	c.token, c.before = false, []byte(id+"."+at+".")
	for _, one := range strings.Fields(header.Get("Webhook-Signature")) {
		text, ok := strings.CutPrefix(one, "v1,")
		if sum, err := base64.StdEncoding.DecodeString(text); ok && err == nil && len(sum) == sha256.Size && id != "" && at != "" && len(c.signed) < maxSignatures {
			c.signed, c.sent = append(c.signed, sum), sum
		}
	}
}

// keysOf are what a signing token may stand for: the bytes that are written in it, or the text itself.
func keysOf(secret string) [2][]byte {
	keys := [2][]byte{[]byte(secret), []byte(secret)}
	if text, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if key, err := base64.StdEncoding.DecodeString(text); err == nil && len(key) > 0 {
			keys[1] = key
		}
	}
	return keys
}

// checkOf reads what a delivery sent as proof: of hmac, the one signature that counts, SHA-256's.
func checkOf(forge Forge, header http.Header, candidates []Secret) *check {
	c := &check{token: forge == GitLab}
	for _, s := range candidates {
		if s.Value != "" || s.void {
			c.candidates = append(c.candidates, s)
		}
	}
	if c.token && header.Get("Webhook-Signature") != "" { // then it alone counts
		c.standard(header)
		return c
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
	if c.before != nil {
		ok := false
		for _, key := range keysOf(secret) {
			mac := hmac.New(sha256.New, key)
			mac.Write(c.before)
			mac.Write(body)
			sum := mac.Sum(nil)
			for _, sent := range c.signed {
				ok = hmac.Equal(sum, sent) || ok
			}
		}
		return ok
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hmac.Equal(mac.Sum(nil), c.sent)
}
