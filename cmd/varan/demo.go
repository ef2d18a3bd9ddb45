package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/spf13/cobra"

	"github.com/varanhq/varan/examples"
)

const (
	demoFleet = "demo"
	demoImage = "varan-demo:1"
)

// demoCommand puts a small world on this machine and changes it.
type demoCommand struct {
	sh    *shell
	Clean bool
	Dir   string
}

func newDemo(sh *shell) *cobra.Command {
	c := &demoCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "demo", Short: "a whole small world on this machine, offline",
		Long: `demo makes a config repository, an image from varan's own binary (nothing is downloaded), shows the plan, applies
it, commits a change, shows the difference and applies that. It touches nothing but what it made: the fleet "demo".`,
		Example: "  varan demo\n  varan demo --clean        take all of it away again",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&c.Clean, "clean", false, "take the demo away")
	cmd.Flags().StringVar(&c.Dir, "dir", demoDir(sh), "where its repository and files are")
	return cmd
}

func demoDir(sh *shell) string {
	w := sh.where()
	switch {
	case w.Root:
		return "/var/lib/varan-demo"
	case filepath.IsAbs(w.DataHome):
		return filepath.Join(w.DataHome, "varan-demo")
	}
	return filepath.Join(w.Home, ".local", "share", "varan-demo")
}

func (c *demoCommand) repo() string   { return filepath.Join(c.Dir, "infra") }
func (c *demoCommand) config() string { return filepath.Join(c.Dir, "varan.toml") }

// Run shows the world, or takes it away.
func (c *demoCommand) Run(ctx context.Context) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	c.Dir = dir
	if _, err := engine(ctx); err != nil {
		return fmt.Errorf("the demo needs a Docker engine: %w", err)
	}
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer docker.Close()
	if c.Clean {
		if err := c.clean(ctx, docker); err != nil {
			return err
		}
		c.sh.say("The demo is gone: its containers, network, image and %s.", c.Dir)
		return nil
	}
	exe, err := staticSelf()
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := os.Stat(c.Dir); err == nil {
		c.title("An earlier demo is taken away first")
		if err := c.clean(ctx, docker); err != nil {
			return err
		}
	}
	c.title("An image from varan's own binary: " + demoImage)
	if err := makeImage(ctx, docker, exe); err != nil {
		return err
	}
	c.title("A config repository: " + c.repo())
	repo, err := c.makeRepo()
	if err != nil {
		return err
	}
	c.sh.say("world.toml     deployment demo-db, then stack demo-shop, then deployment demo-edge")
	c.sh.say("stacks/shop    the shop's compose file and a file that it mounts")

	config := &config{sh: c.sh, File: c.config()}
	source := func() *source { return &source{sh: c.sh, config: config, Dir: c.repo(), Ref: "main", fleet: openFleet} }
	c.title("The plan:  varan plan")
	if err := (&planCommand{source: source()}).Run(ctx); err != nil {
		return err
	}
	c.title("Carried out:  varan apply")
	quiet := func() *applyCommand { return &applyCommand{source: source(), Yes: true, NoPlan: true} }
	if err := quiet().Run(ctx); err != nil {
		return err
	}
	c.title("A commit: the shop turns green, demo-db gets a better description")
	if err := c.change(repo); err != nil {
		return err
	}
	c.title("What that commit does:  varan plan")
	if err := (&planCommand{source: source()}).Run(ctx); err != nil {
		return err
	}
	c.title("Carried out:  varan apply")
	if err := quiet().Run(ctx); err != nil {
		return err
	}
	c.title(fmt.Sprintf("Done in %.0f s. What to try next", time.Since(start).Seconds()))
	c.sh.say(`  export VARAN_CONFIG=%s
  varan plan %[2]s                       nothing to do
  docker stop demo-db; varan plan %[2]s  what drifted, and what would be done
  $EDITOR %[2]s/world.toml; varan apply %[2]s
  varan serve --repo %[2]s               from now on at every commit
  curl http://127.0.0.1:18080
  varan demo --clean                     take all of it away`, quoteArg(c.config()), quoteArg(c.repo()))
	return nil
}

func (c *demoCommand) title(s string) {
	if c.sh.terminal(c.sh.err).Color {
		s = "\x1b[1m" + s + "\x1b[0m"
	}
	c.sh.say("\n▸ %s", s)
}

// staticSelf is this program's file, if it can run where there is nothing else.
func staticSelf() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find varan's own binary: %w", err)
	}
	f, err := elf.Open(exe)
	if err != nil {
		return "", fmt.Errorf("read varan's own binary: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("this varan is linked to the system's libraries, and the demo runs it in containers that have none\nbuild a static one: CGO_ENABLED=0 go build -o varan ./cmd/varan")
		}
	}
	return exe, nil
}

// makeImage imports a file system that holds varan and nothing else.
func makeImage(ctx context.Context, docker *client.Client, exe string) error {
	f, err := os.Open(exe)
	if err != nil {
		return fmt.Errorf("read varan's own binary: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read varan's own binary: %w", err)
	}
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "varan", Mode: 0o755, Size: info.Size()})
		if err == nil {
			_, err = io.Copy(tw, f)
		}
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	out, err := docker.ImageImport(ctx, image.ImportSource{Source: r, SourceName: "-"}, demoImage, image.ImportOptions{Changes: []string{
		`ENTRYPOINT ["/varan"]`,
		`HEALTHCHECK --interval=1s CMD ["/varan", "demo-app", "health"]`,
	}})
	if err != nil {
		return fmt.Errorf("make image %s: %w", demoImage, err)
	}
	defer out.Close()
	if _, err := io.Copy(io.Discard, out); err != nil {
		return fmt.Errorf("make image %s: %w", demoImage, err)
	}
	return nil
}

// makeRepo lays the world out, as the first commit of a repository, with a varan.toml beside it.
func (c *demoCommand) makeRepo() (*git.Repository, error) {
	world, err := fs.Sub(examples.Demo, "demo")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	if err := os.CopyFS(c.repo(), world); err != nil {
		return nil, fmt.Errorf("lay out the demo: %w", err)
	}
	text := fmt.Sprintf("# The demo's varan: a fleet of its own that touches nothing else.\nname = %q\ndata_dir = %q\nlisten = \"\"\n[hub]\nlisten = \"\"\nkey_file = %q\n[agent]\nroot = %q\n",
		demoFleet, filepath.Join(c.Dir, "data"), filepath.Join(c.Dir, "hub.key"), filepath.Join(c.Dir, "agent"))
	if err := os.WriteFile(c.config(), []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the demo's settings: %w", err)
	}
	repo, err := git.PlainInitWithOptions(c.repo(), &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName("main")}})
	if err != nil {
		return nil, fmt.Errorf("make the demo's repository: %w", err)
	}
	return repo, commit(repo, "a small world")
}

func commit(repo *git.Repository, message string) error {
	w, err := repo.Worktree()
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := w.AddWithOptions(&git.AddOptions{All: true}); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	who := &object.Signature{Name: "varan demo", Email: "demo@localhost", When: time.Now()}
	if _, err := w.Commit(message, &git.CommitOptions{Author: who, Committer: who}); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// change commits two changes: one that recreates a service, one that restarts nothing.
func (c *demoCommand) change(repo *git.Repository) error {
	path := filepath.Join(c.repo(), "world.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, r := range [][2]string{{"COLOUR = blue", "COLOUR = green"}, {"keeps the stock", "keeps the stock, and counts it"}} {
		if !bytes.Contains(data, []byte(r[0])) {
			return fmt.Errorf("the demo's world.toml has no %q", r[0])
		}
		c.sh.say("  - %s\n  + %s", r[0], r[1])
		data = bytes.Replace(data, []byte(r[0]), []byte(r[1]), 1)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return commit(repo, "the shop turns green")
}

// clean takes away what the demo made, told by its fleet's label, and nothing else.
func (c *demoCommand) clean(ctx context.Context, docker *client.Client) error {
	list, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "varan.fleet="+demoFleet))})
	if err != nil {
		return fmt.Errorf("list the demo's containers: %w", err)
	}
	projects := map[string]bool{}
	for _, x := range list {
		if p := x.Labels["com.docker.compose.project"]; p != "" {
			projects[p] = true
		}
		if err := docker.ContainerRemove(ctx, x.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil && !cerrdefs.IsNotFound(err) {
			return fmt.Errorf("remove container %s: %w", x.ID[:12], err)
		}
	}
	for p := range projects {
		nets, err := docker.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "com.docker.compose.project="+p))})
		if err != nil {
			return fmt.Errorf("list the demo's networks: %w", err)
		}
		for _, n := range nets {
			if err := docker.NetworkRemove(ctx, n.ID); err != nil {
				return fmt.Errorf("remove network %s: %w", n.Name, err)
			}
		}
	}
	if _, err := docker.ImageRemove(ctx, demoImage, image.RemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", demoImage, err)
	}
	// Only a folder that a demo made is removed.
	if data, err := os.ReadFile(c.config()); err == nil && bytes.HasPrefix(data, []byte("# The demo's varan")) {
		if err := os.RemoveAll(c.Dir); err != nil {
			return fmt.Errorf("remove the demo's folder: %w", err)
		}
	} else if entries, err := os.ReadDir(c.Dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is no demo's folder: move it away, or choose another with --dir", c.Dir)
	}
	return nil
}
