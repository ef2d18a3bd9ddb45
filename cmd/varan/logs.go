package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	gosync "sync"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/report"
)

// logsCommand shows what containers printed.
type logsCommand struct {
	*caller
	Resource, Service, Server, Since string
	Tail                             int
	Follow                           bool
}

func newLogs(sh *shell) *cobra.Command {
	c := &logsCommand{}
	cmd := &cobra.Command{
		Use: "logs KIND/NAME", Short: "what a resource's containers print",
		Example: "  varan logs stack/shop\n  varan logs stack/shop --service web -f\n  varan logs deployment/db --tail 20 --since 10m",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Resource = args[0]
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.ValidArgsFunction = c.completeResources
	cmd.Flags().StringVar(&c.Service, "service", "", "of this service only")
	cmd.Flags().StringVar(&c.Server, "server", "", "on this server only")
	cmd.Flags().StringVar(&c.Since, "since", "", "since a time or for so long: 10m")
	cmd.Flags().IntVar(&c.Tail, "tail", 100, "the last `N` lines")
	cmd.Flags().BoolVarP(&c.Follow, "follow", "f", false, "go on as more is printed")
	return cmd
}

// Run copies the logs; what containers print may hold anything, so each line is escaped for a terminal.
func (c *logsCommand) Run(ctx context.Context) error {
	id, err := resourceID(c.Resource)
	if err != nil {
		return err
	}
	signals, give := interrupts()
	defer give()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	left := make(chan struct{})
	go func() {
		select {
		case <-signals:
			close(left)
			stop()
		case <-ctx.Done():
		}
	}()
	w := &lineEscaper{sh: c.sh, raw: true}
	if _, is := fdOf(c.sh.out); is {
		w.raw = false
	}
	req := sync.LogsRequest{Resource: schema.ID(id), Service: c.Service, Server: c.Server, Since: c.Since, Tail: c.Tail, Follow: c.Follow}
	if c.sh.env["VARAN_URL"] != "" {
		err = c.remote(ctx, req, w)
	} else {
		err = c.local(ctx, req, w)
	}
	w.flush()
	select {
	case <-left:
		return nil
	default:
		return err
	}
}

// remote asks a daemon elsewhere.
func (c *logsCommand) remote(ctx context.Context, req sync.LogsRequest, w io.Writer) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	return client.Logs(ctx, req, w)
}

// local reads this machine's engine: who may do that sees nothing new, and it works while no daemon runs.
func (c *logsCommand) local(ctx context.Context, req sync.LogsRequest, w io.Writer) error {
	set, _, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return fmt.Errorf("read DOCKER_HOST: %w", err)
	}
	defer docker.Close()
	list, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("label", "varan.fleet="+set.Name), filters.Arg("label", "varan.resource="+string(req.Resource)))})
	if err != nil {
		return fmt.Errorf("list containers at %s: %w", docker.DaemonHost(), err)
	}
	slices.SortFunc(list, func(a, b container.Summary) int { return cmp.Compare(nameOf(a), nameOf(b)) })
	if req.Service != "" {
		list = slices.DeleteFunc(list, func(x container.Summary) bool { return x.Labels["com.docker.compose.service"] != req.Service })
	}
	if len(list) == 0 {
		return fmt.Errorf("no container of %s is on this machine (fleet %s)", req.Resource, set.Name)
	}
	width := 0
	for _, x := range list {
		width = max(width, len(nameOf(x)))
	}
	var mu gosync.Mutex // guards w: containers print side by side
	g, ctx := errgroup.WithContext(ctx)
	for _, x := range list {
		prefix := ""
		if len(list) > 1 {
			prefix = fmt.Sprintf("%-*s | ", width, nameOf(x))
		}
		g.Go(func() error {
			r, err := docker.ContainerLogs(ctx, x.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true,
				Tail: strconv.Itoa(req.Tail), Since: req.Since, Follow: req.Follow})
			if err != nil {
				return fmt.Errorf("read logs of %s: %w", nameOf(x), err)
			}
			defer r.Close()
			out := &prefixer{mu: &mu, w: w, prefix: prefix}
			defer out.flush()
			info, err := docker.ContainerInspect(ctx, x.ID)
			if err == nil && info.Config != nil && info.Config.Tty {
				_, err = io.Copy(out, r)
				return err
			}
			_, err = stdcopy.StdCopy(out, out, r)
			return err
		})
	}
	return g.Wait()
}

func nameOf(x container.Summary) string {
	if len(x.Names) > 0 {
		return strings.TrimPrefix(x.Names[0], "/")
	}
	return x.ID[:12]
}

// prefixer writes whole lines, each behind a prefix.
type prefixer struct {
	mu     *gosync.Mutex
	w      io.Writer
	prefix string
	rest   []byte
}

func (p *prefixer) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 && len(p.rest) < 64<<10 {
			return len(data), nil
		}
		if i < 0 {
			i = len(p.rest) - 1
		}
		if err := p.line(p.rest[:i+1]); err != nil {
			return 0, err
		}
		p.rest = p.rest[i+1:]
	}
}

func (p *prefixer) line(l []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := io.WriteString(p.w, p.prefix+strings.TrimRight(string(l), "\r\n")+"\n")
	return err
}

func (p *prefixer) flush() {
	if len(p.rest) > 0 {
		_ = p.line(p.rest)
	}
}

// lineEscaper writes lines escaped, or as they are into a pipe.
type lineEscaper struct {
	sh   *shell
	raw  bool
	rest []byte
}

func (w *lineEscaper) Write(p []byte) (int, error) {
	if w.raw {
		return w.sh.out.Write(p)
	}
	n := len(p)
	w.rest = append(w.rest, p...)
	for {
		i := strings.IndexByte(string(w.rest), '\n')
		if i < 0 && len(w.rest) < 64<<10 {
			return n, nil
		}
		if i < 0 {
			i = len(w.rest) - 1
		}
		w.sh.print(report.Escape(strings.TrimRight(string(w.rest[:i+1]), "\r\n")) + "\n")
		w.rest = w.rest[i+1:]
	}
}

func (w *lineEscaper) flush() {
	if len(w.rest) > 0 {
		w.sh.print(report.Escape(string(w.rest)) + "\n")
	}
}
