package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

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
	client, err := c.client(ctx)
	if err == nil {
		err = client.Logs(ctx, req, w)
	}
	w.flush()
	select {
	case <-left:
		return nil
	default:
		return err
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
