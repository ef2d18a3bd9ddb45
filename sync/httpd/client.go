package httpd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
)

// A Client speaks to a running daemon.
type Client struct {
	base  string
	token string
	http  *http.Client
	where string // for errors
}

// Dial makes a client for the socket of this machine's daemon. Nothing is opened yet.
func Dial(socket string) *Client {
	return &Client{base: "http://varan", where: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Connect makes a client for a daemon's URL. The token goes nowhere else: redirects are not followed.
func Connect(base, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("the daemon's address %q is no http:// or https:// URL", base)
	}
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, where: base, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ErrNoDaemon says that nobody answers.
var ErrNoDaemon = errors.New("no daemon answers")

// Ping reports whether a daemon answers: ErrNoDaemon if not.
func (c *Client) Ping(ctx context.Context) error {
	resp, err := c.send(ctx, http.MethodGet, "/healthz", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrNoDaemon, c.where, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e struct {
		Error Fault `json:"error"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if json.Unmarshal(data, &e) != nil || e.Error.Message == "" {
		return nil, fmt.Errorf("%s answers %s", c.where, resp.Status)
	}
	return nil, e.Error.Err()
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.where, err)
	}
	return nil
}

// stream hands on events until the answer ends.
func (c *Client) stream(ctx context.Context, method, path string, body any, events func(apply.Event)) (Frame, error) {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return Frame{}, err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var f Frame
		if err := d.Decode(&f); err != nil {
			if ctx.Err() != nil {
				return Frame{}, context.Cause(ctx)
			}
			return Frame{}, fmt.Errorf("%s broke off its answer; what it began may go on: varan status", c.where)
		}
		if f.Event != nil && events != nil {
			events(*f.Event)
		}
		if f.End {
			if f.Error != nil {
				return f, f.Error.Err()
			}
			return f, nil
		}
	}
}

// Status tells how everything stands.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/api/v1/status", nil, &s)
}

// Runs lists the newest runs.
func (c *Client) Runs(ctx context.Context, limit int) (runs []sync.RunInfo, err error) {
	return runs, c.call(ctx, http.MethodGet, "/api/v1/runs?limit="+strconv.Itoa(limit), nil, &runs)
}

// RunByID tells all of one run.
func (c *Client) RunByID(ctx context.Context, id string) (*sync.Run, error) {
	r := new(sync.Run)
	return r, c.call(ctx, http.MethodGet, "/api/v1/runs/"+url.PathEscape(id), nil, r)
}

// Plan makes a plan and touches nothing.
func (c *Client) Plan(ctx context.Context, req sync.PlanRequest) (*plan.Plan, error) {
	p := new(plan.Plan)
	return p, c.call(ctx, http.MethodPost, "/api/v1/plan", req, p)
}

// Apply plans and applies.
func (c *Client) Apply(ctx context.Context, req sync.ApplyRequest, events func(apply.Event)) (*plan.Plan, *apply.Result, error) {
	f, err := c.stream(ctx, http.MethodPost, "/api/v1/apply", req, events)
	return f.Plan, f.Result, err
}

// Events follows every run until ctx ends.
func (c *Client) Events(ctx context.Context, fn func(apply.Event)) error {
	_, err := c.stream(ctx, http.MethodGet, "/api/v1/events", nil, fn)
	return err
}

// RunNow runs one resource now.
func (c *Client) RunNow(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	f, err := c.stream(ctx, http.MethodPost, "/api/v1/run", Subject{Resource: id, Actor: actor}, events)
	return f.Result, err
}

// Remove removes one resource that nothing declares any more.
func (c *Client) Remove(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	f, err := c.stream(ctx, http.MethodPost, "/api/v1/remove", Subject{Resource: id, Actor: actor}, events)
	return f.Result, err
}

// Hold sets or lifts a hold.
func (c *Client) Hold(ctx context.Context, req sync.HoldRequest) error {
	return c.call(ctx, http.MethodPost, "/api/v1/hold", req, nil)
}

// Pause stops new runs, or lets them go on.
func (c *Client) Pause(ctx context.Context, req sync.PauseRequest) error {
	return c.call(ctx, http.MethodPost, "/api/v1/pause", req, nil)
}

// Cancel ends a run after the steps in flight.
func (c *Client) Cancel(ctx context.Context, run string) error {
	return c.call(ctx, http.MethodPost, "/api/v1/cancel", Subject{Run: run}, nil)
}

// Approve answers what a plan asks.
func (c *Client) Approve(ctx context.Context, digest, actor string) error {
	return c.call(ctx, http.MethodPost, "/api/v1/approve", Subject{Digest: digest, Actor: actor}, nil)
}

// Revoke locks an agent out, or lets it in again.
func (c *Client) Revoke(ctx context.Context, req Revocation) error {
	return c.call(ctx, http.MethodPost, "/api/v1/agent/revoke", req, nil)
}

// Rotate changes the fleet's key.
func (c *Client) Rotate(ctx context.Context, req KeyChange) (r fleet.Rotation, err error) {
	return r, c.call(ctx, http.MethodPost, "/api/v1/key/rotate", req, &r)
}

// Sync polls one sync now, or all with "".
func (c *Client) Sync(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, "/api/v1/sync", Subject{Sync: name}, nil)
}

// Logs copies what containers printed to w.
func (c *Client) Logs(ctx context.Context, req sync.LogsRequest, w io.Writer) error {
	q := url.Values{"resource": {string(req.Resource)}, "server": {req.Server}, "service": {req.Service}, "since": {req.Since},
		"tail": {strconv.Itoa(req.Tail)}, "follow": {strconv.FormatBool(req.Follow)}}
	resp, err := c.send(ctx, http.MethodGet, "/api/v1/logs?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}
