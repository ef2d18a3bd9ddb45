package webhook

import (
	"strings"
	"testing"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

const fleet = `
[[stack]]
name = "web"
[stack.config]
repo = "Acme/App"
run_directory = "deploy/web"
file_paths = ["compose.yaml", "../shared/extra.yaml"]
additional_env_files = [{ path = "../common.env" }]

[[stack]]
name = "all"
[stack.config]
repo = "acme/app"

[[stack]]
name = "dev"
[stack.config]
repo = "acme/app"
branch = "dev"

[[stack]]
name = "pinned"
[stack.config]
repo = "acme/app"
commit = "1111111111111111111111111111111111111111"

[[stack]]
name = "off"
[stack.config]
repo = "acme/app"
webhook_enabled = false

[[stack]]
name = "linked"
[stack.config]
linked_repo = "app"
run_directory = "deploy/linked"

[[repo]]
name = "app"
[repo.config]
repo = "acme/app"

[[build]]
name = "image"
[build.config]
repo = "acme/app"
build_path = "src"
builder = "b"

[[builder]]
name = "b"
[builder.config]
type = "Server"
params.server = "local"

[[server]]
name = "local"
[server.config]
address = "local"

[[resource_sync]]
name = "team"
[resource_sync.config]
repo = "group/sub/team"
git_provider = "gitlab.example.com"

[[stack]]
name = "inner"
[stack.config]
repo = "acme/app"
git_provider = "git.example.com:3000"
git_https = false

[[procedure]]
name = "nightly"
`

func TestMatch(t *testing.T) {
	config, diags := schema.Parse([]schema.File{{Path: "a.toml", Data: []byte(fleet)}}, schema.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	github := Repository{Path: "acme/app", URLs: []string{"https://github.com/acme/app.git", "git@github.com:acme/app.git"}}
	for name, c := range map[string]struct {
		hint Hint
		want string
	}{
		"paths not told":       {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "main"}}, "build/image repo/app stack/all stack/linked stack/web"},
		"run directory":        {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "main", Complete: true, Paths: []string{"deploy/web/x/y"}}}, "repo/app stack/all stack/web"},
		"beside a file":        {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "main", Complete: true, Paths: []string{"deploy/shared/other.yaml"}}}, "repo/app stack/all stack/web"},
		"env file":             {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "main", Complete: true, Paths: []string{"deploy/common.env"}}}, "repo/app stack/all stack/web"},
		"near, not in":         {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "main", Complete: true, Paths: []string{"deploy/webs", "src2/x"}}}, "repo/app stack/all"},
		"build":                {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "main", Complete: true, Paths: []string{"src/main.go"}}}, "build/image repo/app stack/all"},
		"branch":               {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "dev"}}, "stack/dev"},
		"branches have a case": {Hint{Forge: GitHub, Repo: github, Push: &PushHint{Branch: "Main"}}, ""},
		"repositories do not":  {Hint{Forge: GitHub, Repo: Repository{Path: "ACME/app"}, Push: &PushHint{Branch: "dev"}}, "stack/dev"},
		"ssh alone":            {Hint{Forge: GitHub, Repo: Repository{Path: "x", URLs: []string{"ssh://git@github.com/acme/app"}}, Push: &PushHint{Branch: "dev"}}, "stack/dev"},
		"scp alone":            {Hint{Forge: GitHub, Repo: Repository{URLs: []string{"git@GitHub.com:acme/app.git"}}, Push: &PushHint{Branch: "dev"}}, "stack/dev"},
		"another host":         {Hint{Forge: GitHub, Domain: "ghe.example.com", Repo: Repository{Path: "acme/app", URLs: []string{"https://ghe.example.com/acme/app.git"}}, Push: &PushHint{Branch: "main"}}, ""},
		"a host with port":     {Hint{Forge: Gitea, Domain: "git.example.com:3000", Repo: Repository{Path: "acme/app"}, Push: &PushHint{Branch: "main"}}, "stack/inner"},
		"clone URL with port":  {Hint{Forge: Gitea, Repo: Repository{Path: "acme/app", URLs: []string{"http://git.example.com:3000/acme/app.git"}}, Push: &PushHint{Branch: "main"}}, "stack/inner"},
		"a longer path":        {Hint{Forge: GitHub, Repo: Repository{Path: "acme/app2", URLs: []string{"https://github.com/acme/app2"}}, Push: &PushHint{Branch: "main"}}, ""},
		"subgroups":            {Hint{Forge: GitLab, Domain: "gitlab.example.com", Repo: Repository{Path: "group/sub/team"}, Push: &PushHint{Branch: "main", Complete: true, Paths: []string{"x"}}}, "resource_sync/team"},
		"part of subgroups":    {Hint{Forge: GitLab, Domain: "gitlab.example.com", Repo: Repository{Path: "sub/team"}, Push: &PushHint{Branch: "main"}}, ""},
		"gitlab.com":           {Hint{Forge: GitLab, Repo: Repository{Path: "group/sub/team"}, Push: &PushHint{Branch: "main"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.hint.Event = Push
			var ids []string
			for _, id := range Match(config, &c.hint) {
				ids = append(ids, string(id))
			}
			if got := strings.Join(ids, " "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if ids := Match(config, &Hint{Event: Pull, Repo: github, Pull: &PullHint{Number: 1}}); len(ids) > 0 {
		t.Error(ids)
	}
}

func TestIs(t *testing.T) {
	for _, c := range []struct {
		addr, url string
		want      bool
	}{
		{"https://github.com/acme/infra.git", "git@github.com:Acme/Infra", true},
		{"ssh://git@github.com/acme/infra", "https://github.com/acme/infra/", true},
		{"git@host.example.com:acme/infra.git", "https://HOST.example.com/acme/infra", true},
		{"https://host.example.com:8443/acme/infra", "https://host.example.com/acme/infra", false},
		{"https://host.example.com:8443/acme/infra", "ssh://git@host.example.com:2222/acme/infra", true},
		{"https://host.example.com/acme/infra", "https://user:pass@host.example.com/acme/infra", false},
		{"https://host.example.com/acme/infra", "file:///acme/infra", false},
		{"/srv/acme/infra", "/srv/acme/infra", false}, // no stranger speaks of our files
	} {
		a, err := gitrepo.ParseAddress(c.addr)
		if err != nil {
			t.Fatal(err)
		}
		h := Hint{Event: Push, Forge: Gitea, Repo: Repository{URLs: []string{c.url}}}
		if got := h.Is(a); got != c.want {
			t.Errorf("%s is %s: %v", c.url, c.addr, got)
		}
	}
}
