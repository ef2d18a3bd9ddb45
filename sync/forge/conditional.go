package forge

import (
	"bytes"
	"container/list"
	"fmt"
	"io"
	"net/http"
	gosync "sync"
)

// conditional asks "has it changed" for what it has seen before. The answer "no" costs nothing on GitHub, and
// little elsewhere.
type conditional struct {
	next http.RoundTripper
	kept *kept
}

// RoundTrip answers a 304 with what was kept.
func (c *conditional) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || req.Header.Get("If-None-Match") != "" {
		return c.next.RoundTrip(req)
	}
	key := req.URL.String() + "\n" + req.Header.Get("Accept")
	old, known := c.kept.get(key)
	if known {
		req = req.Clone(req.Context())
		req.Header.Set("If-None-Match", old.etag)
	}
	res, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode == http.StatusNotModified && known:
		_ = res.Body.Close()
		for _, name := range []string{"Content-Type", "Link", "X-Next-Page", "X-Total-Pages", "X-Total", "X-Oauth-Scopes"} {
			if v := old.header.Values(name); v != nil && res.Header.Get(name) == "" {
				res.Header[name] = v
			}
		}
		res.StatusCode, res.Status = http.StatusOK, "200 OK"
		res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(old.body)), int64(len(old.body))
	case res.StatusCode == http.StatusOK && res.Header.Get("ETag") != "":
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		c.kept.put(key, answer{etag: res.Header.Get("ETag"), header: res.Header.Clone(), body: body})
		res.Body = io.NopCloser(bytes.NewReader(body))
	case known:
		c.kept.drop(key) // gone, or no longer ours to see
	}
	return res, nil
}

// answer is one that has an ETag.
type answer struct {
	key    string
	etag   string
	header http.Header
	body   []byte
}

// kept are answers, those used last, up to a number of bytes.
type kept struct {
	max int

	mu    gosync.Mutex // guards what follows
	bytes int
	byKey map[string]*list.Element
	order *list.List // front: used last
}

func newKept(max int) *kept {
	return &kept{max: max, byKey: make(map[string]*list.Element), order: list.New()}
}

func (k *kept) get(key string) (answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.byKey[key]
	if !ok {
		return answer{}, false
	}
	k.order.MoveToFront(e)
	return e.Value.(answer), true
}

func (k *kept) put(key string, a answer) {
	k.drop(key)
	if len(a.body) > k.max/4 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	a.key = key
	k.byKey[key] = k.order.PushFront(a)
	k.bytes += a.size()
	for k.bytes > k.max {
		k.remove(k.order.Back())
	}
}

func (k *kept) drop(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e, ok := k.byKey[key]; ok {
		k.remove(e)
	}
}

func (k *kept) remove(e *list.Element) {
	a := k.order.Remove(e).(answer)
	delete(k.byKey, a.key)
	k.bytes -= a.size()
}

func (a answer) size() int { return len(a.body) + len(a.key) + 2048 } // its headers, about
