package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// demoAppCommand is what runs inside the demo's containers: a server that says who it is.
type demoAppCommand struct {
	sh     *shell
	Name   string
	Listen string
}

func newDemoApp(sh *shell) *cobra.Command {
	c := &demoAppCommand{sh: sh}
	cmd := &cobra.Command{Use: "demo-app", Short: "what the demo's containers run", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) }}
	cmd.PersistentFlags().StringVar(&c.Listen, "listen", ":8080", "")
	cmd.Flags().StringVar(&c.Name, "name", "app", "")
	cmd.AddCommand(&cobra.Command{Use: "health", Short: "ask the server whether it is well", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.health(cmd.Context()) }})
	return cmd
}

// Run answers until a signal.
func (c *demoAppCommand) Run(ctx context.Context) error {
	signals, give := interrupts()
	defer give()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "This is %s.\n", c.Name)
		if colour := c.sh.env["COLOUR"]; colour != "" {
			fmt.Fprintf(w, "Its colour is %s.\n", colour)
		}
		if motd, err := os.ReadFile("/motd.txt"); err == nil {
			_, _ = w.Write(motd)
		}
	})
	srv := &http.Server{Addr: c.Listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-signals
		_ = srv.Close()
	}()
	c.sh.print(c.Name + " listens on " + c.Listen + "\n")
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (c *demoAppCommand) health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+c.Listen+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
