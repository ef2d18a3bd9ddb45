package schema

// examples are the first thing a kind's page shows; each is a whole file that Parse accepts.
var examples = map[Kind]string{
	KindServer: `[[server]]
name = "web1"
tags = ["prod"]
[server.config]
address = "local"            # the machine varan runs on; leave it out for one whose agent dials in
region = "Vienna"
maintenance_windows = [
  { name = "patches", schedule_type = "Weekly", day_of_week = "Sunday", hour = 3, duration_minutes = 90 },
]
`,
	KindDeployment: `[[deployment]]
name = "cache"
[deployment.config]
image = { type = "Image", params = { image = "redis:7.4" } }
network = "bridge"
restart = "unless-stopped"
ports = """
127.0.0.1:6379:6379
"""
volumes = """
cache-data:/data
"""

[[deployment]]
name = "api"
after = ["cache"]            # starts when cache is healthy
[deployment.config]
image = { type = "Image", params = { image = "ghcr.io/acme/api:1.8.2" } }
network = "host"
restart = "unless-stopped"
environment = """
CACHE = 127.0.0.1:6379
TOKEN = [[API_TOKEN]]        # a secret of varan.toml
"""
`,
	KindStack: `[[stack]]
name = "whoami"
[stack.config]
file_contents = """
services:
  whoami:
    image: traefik/whoami:v1.10
    ports: ["127.0.0.1:8081:80"]
"""

[[stack]]
name = "shop"
after = ["whoami"]
[stack.config]
run_directory = "stacks/shop"   # compose.yaml in that folder of this repository
environment = """
DOMAIN = example.org
"""
`,
	KindRepo: `[[repo]]
name = "site"
[repo.config]
git_provider = "github.com"
repo = "acme/site"
branch = "main"

[[stack]]
name = "site"
[stack.config]
linked_repo = "site"
`,
	KindBuild: `[[builder]]
name = "here"
config = { type = "Server", params = { servers = ["build1"] } }

[[server]]
name = "build1"

[[build]]
name = "api"
[build.config]
builder = "here"
repo = "acme/api"
image_registry = [{ domain = "ghcr.io", account = "acme" }]
build_args = """
GO_VERSION = 1.26
"""
`,
	KindBuilder: `[[server]]
name = "build1"

[[builder]]
name = "here"
[builder.config]
type = "Server"
params.servers = ["build1"]
`,
	KindProcedure: `[[procedure]]
name = "nightly"
[procedure.config]
schedule = "Every day at 03:00"
schedule_timezone = "Europe/Vienna"

[[procedure.config.stage]]
name = "update"
executions = [
  { execution = { type = "BatchDeployStackIfChanged", params = { pattern = "web-*" } } },
]

[[procedure.config.stage]]
name = "wait"
executions = [
  { execution = { type = "Sleep", params = { duration_ms = 5000 } } },
]
`,
	KindResourceSync: `[[resource_sync]]
name = "team-a"
[resource_sync.config]
repo = "acme/team-a-infra"
branch = "main"
resource_path = ["resources"]
servers = ["team-a-*"]       # it may use these servers only
secrets = ["TEAM_A_*"]
delete = true
`,
	KindAlerter: `[[alerter]]
name = "on-call"
[alerter.config]
enabled = true
endpoint = { type = "Ntfy", params = { url = "https://ntfy.example.org/infra" } }
alert_types = ["ServerUnreachable", "StackStateChange", "BuildFailed"]
`,
	KindServerTemplate: `[[server_template]]
name = "worker"
[server_template.config]
type = "Hetzner"
[server_template.config.params]
image = "ubuntu-24.04"
datacenter = "Nuremberg1Dc3"
server_type = "SharedAmd2Core2Ram40Disk"
enable_public_ipv4 = true
use_public_ip = true
`,
}
