package schema

// ServerConfig is the [server.config] table: one Docker host.
type ServerConfig struct {
	Address                   string            `key:"address" json:"address,omitempty" doc:"\"local\" is the machine varan itself runs on; empty means the agent dials in. Komodo's agent URLs are accepted and not used."`
	PublicKey                 string            `key:"public_key" own:"true" json:"public_key,omitempty" doc:"The public key its agent printed; committing it enrols the agent, removing it locks it out."`
	AgentVersion              string            `key:"agent_version" own:"true" json:"agent_version,omitempty" doc:"The version of varan its agent is to be: the agent is updated to it, or put back, from the binaries in [hub] agents_dir. Empty: the agent is left as it is."`
	AgentSHA256               map[string]string `key:"agent_sha256" own:"true" json:"agent_sha256,omitempty" doc:"For each platform (\"linux-amd64\", \"linux-arm64\") the SHA-256 of that version's binary, in hex. An agent takes no other."`
	InsecureTLS               bool              `key:"insecure_tls" default:"true" json:"insecure_tls,omitempty" doc:"Accepted and not used: agents dial out and pin the fleet's key."`
	ExternalAddress           string            `key:"external_address" json:"external_address,omitempty" doc:"Address used in links; falls back to address."`
	Region                    string            `key:"region" json:"region,omitempty" doc:"A label, copied into alerts."`
	Enabled                   bool              `key:"enabled" default:"true" json:"enabled" doc:"Whether the server is looked at and changed. Left out it means true."`
	TimeoutSeconds            int               `key:"timeout_seconds" default:"3" range:"0 2147483647" json:"timeout_seconds,omitempty" doc:"Accepted and not used."`
	AutoRotateKeys            bool              `key:"auto_rotate_keys" default:"true" json:"auto_rotate_keys,omitempty" doc:"Accepted and not used: keys are rotated with varan key rotate."`
	Passkey                   string            `key:"passkey" json:"-" doc:"Accepted and not used: agents authenticate by key."`
	IgnoreMounts              []string          `key:"ignore_mounts" word:"strlist" json:"ignore_mounts,omitempty" doc:"Prefixes of mount paths left out of disk figures."`
	AutoPrune                 Prune             `key:"auto_prune" word:"prune" default:"true" json:"auto_prune,omitempty" doc:"true: once a day, remove images that varan pulled or built and nothing uses; \"all\": every image nothing uses, as Komodo does."`
	Links                     []string          `key:"links" word:"strlist" json:"links,omitempty" doc:"Links shown on the page."`
	StatsMonitoring           bool              `key:"stats_monitoring" default:"true" json:"stats_monitoring,omitempty" doc:"Collect figures of CPU, memory and disks."`
	SendUnreachableAlerts     bool              `key:"send_unreachable_alerts" default:"true" json:"send_unreachable_alerts,omitempty" doc:"Alert when its agent is gone."`
	SendCPUAlerts             bool              `key:"send_cpu_alerts" default:"true" json:"send_cpu_alerts,omitempty" doc:"Alert on CPU thresholds."`
	SendMemAlerts             bool              `key:"send_mem_alerts" default:"true" json:"send_mem_alerts,omitempty" doc:"Alert on memory thresholds."`
	SendDiskAlerts            bool              `key:"send_disk_alerts" default:"true" json:"send_disk_alerts,omitempty" doc:"Alert on disk thresholds."`
	SendVersionMismatchAlerts bool              `key:"send_version_mismatch_alerts" default:"true" json:"send_version_mismatch_alerts,omitempty" doc:"Alert when its agent's version differs from the daemon's."`
	CPUWarning                float64           `key:"cpu_warning" default:"90.0" range:"0 100" json:"cpu_warning,omitempty" doc:"Percent of CPU at which to warn."`
	CPUCritical               float64           `key:"cpu_critical" default:"99.0" range:"0 100" json:"cpu_critical,omitempty" doc:"Percent of CPU that is critical."`
	MemWarning                float64           `key:"mem_warning" default:"75.0" range:"0 100" json:"mem_warning,omitempty" doc:"Percent of memory at which to warn."`
	MemCritical               float64           `key:"mem_critical" default:"95.0" range:"0 100" json:"mem_critical,omitempty" doc:"Percent of memory that is critical."`
	DiskWarning               float64           `key:"disk_warning" default:"75.0" range:"0 100" json:"disk_warning,omitempty" doc:"Percent of a mount at which to warn."`
	DiskCritical              float64           `key:"disk_critical" default:"95.0" range:"0 100" json:"disk_critical,omitempty" doc:"Percent of a mount that is critical."`
	MaintenanceWindows        []Window          `key:"maintenance_windows" json:"maintenance_windows,omitempty" doc:"Times in which no alert is opened."`
}

// A Window is a maintenance window; start and end belong to it.
type Window struct {
	Name            string `key:"name" required:"true" json:"name" doc:"What to call it."`
	Description     string `key:"description" json:"description,omitempty" doc:"What it is for."`
	ScheduleType    string `key:"schedule_type" default:"\"Daily\"" enum:"Daily Weekly OneTime" json:"schedule_type" doc:"How it repeats."`
	DayOfWeek       string `key:"day_of_week" word:"weekday" json:"day_of_week,omitempty" doc:"The day of a Weekly window, in any usual spelling (\"Thursday\", \"thu\", \"Thurs\")."`
	Date            string `key:"date" word:"date" json:"date,omitempty" doc:"The day of a OneTime window, YYYY-MM-DD."`
	Hour            int    `key:"hour" range:"0 23" json:"hour" doc:"The hour it starts."`
	Minute          int    `key:"minute" range:"0 59" json:"minute" doc:"The minute it starts."`
	DurationMinutes int    `key:"duration_minutes" required:"true" range:"1 525600" json:"duration_minutes" doc:"How long it lasts, in minutes."`
	Timezone        string `key:"timezone" word:"timezone" json:"timezone,omitempty" doc:"IANA name of the zone; empty: the daemon's."`
	Enabled         bool   `key:"enabled" default:"true" json:"enabled" doc:"Whether it counts."`
}

// RepoConfig is the [repo.config] table: a Git repository, cloned where it has a server.
type RepoConfig struct {
	Server           string   `key:"server,server_id" ref:"server" json:"server,omitempty" doc:"The server it is cloned to."`
	Builder          string   `key:"builder,builder_id" ref:"builder" json:"builder,omitempty" doc:"The builder of BuildRepo."`
	GitProvider      string   `key:"git_provider" default:"\"github.com\"" json:"git_provider,omitempty" doc:"Domain of the Git provider."`
	GitHTTPS         bool     `key:"git_https" default:"true" json:"git_https,omitempty" doc:"Use https."`
	GitAccount       string   `key:"git_account" json:"git_account,omitempty" doc:"The account of [[git_provider]] to fetch with."`
	Repo             string   `key:"repo" json:"repo,omitempty" doc:"owner/name of the repository."`
	Branch           string   `key:"branch" default:"\"main\"" json:"branch,omitempty" doc:"The branch."`
	Commit           string   `key:"commit" json:"commit,omitempty" doc:"A commit to stay at."`
	Path             string   `key:"path" json:"path,omitempty" doc:"Folder of the clone; relative to the repo's own folder."`
	WebhookEnabled   bool     `key:"webhook_enabled" default:"true" json:"webhook_enabled,omitempty" doc:"Whether webhooks may trigger it."`
	WebhookSecret    string   `key:"webhook_secret" json:"-" doc:"Overrides the webhook secret."`
	OnClone          Command  `key:"on_clone" json:"on_clone,omitzero" doc:"Run after cloning; path is relative to the repository's root."`
	OnPull           Command  `key:"on_pull" json:"on_pull,omitzero" doc:"Run after cloning and after each pull."`
	Links            []string `key:"links" word:"strlist" json:"links,omitempty" doc:"Links shown on the page."`
	Environment      []KV     `key:"environment" word:"kv-env" json:"environment,omitempty" doc:"Variables written to env_file_path."`
	EnvFilePath      string   `key:"env_file_path" default:"\".env\"" json:"env_file_path,omitempty" doc:"Where environment is written, relative to the repository's root."`
	SkipSecretInterp bool     `key:"skip_secret_interp" json:"skip_secret_interp,omitempty" doc:"Leave [[NAME]] as it is."`
}

// Source is where the repository is.
func (c *RepoConfig) Source() Source {
	return Source{GitProvider: c.GitProvider, GitHTTPS: c.GitHTTPS, GitAccount: c.GitAccount, Repo: c.Repo, Branch: c.Branch, Commit: c.Commit}
}

// An ImageRegistry is one place a build's image is pushed to.
type ImageRegistry struct {
	Domain       string `key:"domain" json:"domain,omitempty" doc:"Domain of the registry."`
	Account      string `key:"account" json:"account,omitempty" doc:"The account of [[docker_registry]] to push with."`
	Organization string `key:"organization" json:"organization,omitempty" doc:"Push below this organization instead of the account."`
}

// BuildConfig is the [build.config] table: an image to build.
type BuildConfig struct {
	Builder              string   `key:"builder,builder_id" ref:"builder" json:"builder,omitempty" doc:"The builder it runs on."`
	Version              Version  `key:"version" default:"\"0.0.0\"" json:"version,omitzero" doc:"The version to build; 0.0.0 counts on from the last one."`
	AutoIncrementVersion bool     `key:"auto_increment_version" default:"true" json:"auto_increment_version,omitempty" doc:"Raise the patch number with each run."`
	ImageName            string   `key:"image_name" json:"image_name,omitempty" doc:"The image's name; empty: the build's."`
	ImageTag             string   `key:"image_tag" json:"image_tag,omitempty" doc:"Added to each tag."`
	IncludeLatestTag     bool     `key:"include_latest_tag" default:"true" json:"include_latest_tag,omitempty" doc:"Push the tag latest."`
	IncludeVersionTags   bool     `key:"include_version_tags" default:"true" json:"include_version_tags,omitempty" doc:"Push the tags X.Y.Z, X.Y and X."`
	IncludeCommitTag     bool     `key:"include_commit_tag" default:"true" json:"include_commit_tag,omitempty" doc:"Push the commit's short hash as a tag."`
	Links                []string `key:"links" word:"strlist" json:"links,omitempty" doc:"Links shown on the page."`
	Source
	WebhookEnabled   bool            `key:"webhook_enabled" default:"true" json:"webhook_enabled,omitempty" doc:"Whether webhooks may trigger it."`
	WebhookSecret    string          `key:"webhook_secret" json:"-" doc:"Overrides the webhook secret."`
	FilesOnHost      bool            `key:"files_on_host" json:"files_on_host,omitempty" doc:"The files already lie on the builder."`
	BuildPath        string          `key:"build_path" default:"\".\"" json:"build_path,omitempty" doc:"The context folder, relative to the source's root."`
	DockerfilePath   string          `key:"dockerfile_path" default:"\"Dockerfile\"" json:"dockerfile_path,omitempty" doc:"The Dockerfile, relative to build_path."`
	ImageRegistry    []ImageRegistry `key:"image_registry" word:"one-or-list" json:"image_registry,omitempty" doc:"Where the image is pushed: one table or a list of them."`
	SkipSecretInterp bool            `key:"skip_secret_interp" json:"skip_secret_interp,omitempty" doc:"Leave [[NAME]] as it is."`
	UseBuildx        bool            `key:"use_buildx" json:"use_buildx,omitempty" doc:"Accepted and not needed: builds always run on BuildKit."`
	ExtraArgs        []string        `key:"extra_args" word:"strlist" json:"extra_args,omitempty" doc:"Further flags of docker build."`
	PreBuild         Command         `key:"pre_build" json:"pre_build,omitzero" doc:"Run before the build; path is relative to build_path."`
	Dockerfile       string          `key:"dockerfile" json:"dockerfile,omitempty" doc:"The Dockerfile, inline."`
	BuildArgs        []KV            `key:"build_args" word:"kv-env" json:"build_args,omitempty" doc:"Build arguments."`
	SecretArgs       []KV            `key:"secret_args" word:"kv-env" json:"secret_args,omitempty" doc:"Build secrets, mounted by RUN --mount=type=secret."`
	Labels           []KV            `key:"labels" word:"kv-label" json:"labels,omitempty" doc:"Image labels."`
}

// BuilderConfig is the [builder.config] table: where builds run. It is a union: exactly the params of
// Type are set.
type BuilderConfig struct {
	Type   string         `key:"type" default:"\"Url\"" json:"type" doc:"Url, Server or Aws."`
	URL    *URLBuilder    `variant:"Url" json:"url,omitempty" doc:"A fixed agent address."`
	Server *ServerBuilder `variant:"Server" json:"server,omitempty" doc:"Servers of the fleet."`
	AWS    *AWSBuilder    `variant:"Aws" json:"aws,omitempty" doc:"An EC2 instance per build."`
}

// URLBuilder are the params of a builder of type Url.
type URLBuilder struct {
	Address            string `key:"address" default:"\"https://periphery:8120\"" json:"address,omitempty" doc:"The agent's address."`
	PeripheryPublicKey string `key:"periphery_public_key" json:"periphery_public_key,omitempty" doc:"The key expected of it."`
	InsecureTLS        bool   `key:"insecure_tls" default:"true" json:"insecure_tls,omitempty" doc:"Accepted and not used."`
	Passkey            string `key:"passkey" json:"-" doc:"Accepted and not used."`
}

// ServerBuilder are the params of a builder of type Server.
type ServerBuilder struct {
	Servers []string `key:"servers,server_ids,server,server_id" word:"strlist" ref:"server" json:"servers,omitempty" doc:"The servers it may use."`
}

// AWSBuilder are the params of a builder of type Aws.
type AWSBuilder struct {
	Region             string            `key:"region" default:"\"us-east-1\"" json:"region,omitempty" doc:"The region."`
	InstanceType       string            `key:"instance_type" default:"\"c5.2xlarge\"" json:"instance_type,omitempty" doc:"The instance type."`
	VolumeGB           int               `key:"volume_gb" default:"20" range:"1 65536" json:"volume_gb,omitempty" doc:"Size of the root volume in GB."`
	AMIID              string            `key:"ami_id" json:"ami_id,omitempty" doc:"The image to start from."`
	SubnetID           string            `key:"subnet_id" json:"subnet_id,omitempty" doc:"The subnet."`
	KeyPairName        string            `key:"key_pair_name" json:"key_pair_name,omitempty" doc:"The SSH key pair."`
	AssignPublicIP     bool              `key:"assign_public_ip" json:"assign_public_ip,omitempty" doc:"Give it a public address."`
	UsePublicIP        bool              `key:"use_public_ip" json:"use_public_ip,omitempty" doc:"Reach it by its public address."`
	SecurityGroupIDs   []string          `key:"security_group_ids" word:"strlist" json:"security_group_ids,omitempty" doc:"Its security groups."`
	UserData           string            `key:"user_data" json:"user_data,omitempty" doc:"What it runs at its first boot."`
	Port               int               `key:"port" default:"8120" range:"1 65535" json:"port,omitempty" doc:"The agent's port."`
	UseHTTPS           bool              `key:"use_https" default:"true" json:"use_https,omitempty" doc:"Accepted and not used."`
	PeripheryPublicKey string            `key:"periphery_public_key" json:"periphery_public_key,omitempty" doc:"The key expected of it."`
	InsecureTLS        bool              `key:"insecure_tls" default:"true" json:"insecure_tls,omitempty" doc:"Accepted and not used."`
	GitProviders       []BuilderGit      `key:"git_providers" json:"git_providers,omitempty" doc:"Git accounts the image brings along; for information."`
	ImageRegistries    []BuilderRegistry `key:"image_registries" json:"image_registries,omitempty" doc:"Registry accounts the image brings along; for information."`
	DockerRegistries   []BuilderRegistry `key:"docker_registries" json:"docker_registries,omitempty" doc:"The former name of image_registries."`
	Secrets            []string          `key:"secrets" word:"strlist" json:"secrets,omitempty" doc:"Names of secrets the image brings along; for information."`
}

// BuilderGit is a Git provider a builder's image knows.
type BuilderGit struct {
	Domain   string           `key:"domain" json:"domain,omitempty" doc:"Domain of the provider."`
	HTTPS    bool             `key:"https" default:"true" json:"https,omitempty" doc:"Use https."`
	Accounts []BuilderAccount `key:"accounts" json:"accounts,omitempty" doc:"Its accounts."`
}

// BuilderRegistry is a registry a builder's image knows.
type BuilderRegistry struct {
	Domain        string           `key:"domain" json:"domain,omitempty" doc:"Domain of the registry."`
	Accounts      []BuilderAccount `key:"accounts" json:"accounts,omitempty" doc:"Its accounts."`
	Organizations []string         `key:"organizations" json:"organizations,omitempty" doc:"Its organizations."`
}

// BuilderAccount is an account a builder's image knows.
type BuilderAccount struct {
	Username string `key:"username" json:"username" doc:"The account's name."`
}

// ProcedureConfig is the [procedure.config] table: executions in stages.
type ProcedureConfig struct {
	Stages           []Stage `key:"stage,stages" json:"stages,omitempty" doc:"The stages, run one after another."`
	RunOnChange      bool    `key:"run_on_change" own:"true" json:"run_on_change,omitempty" doc:"Run it when a merge changes its definition."`
	ScheduleFormat   string  `key:"schedule_format" default:"\"English\"" enum:"English Cron" json:"schedule_format,omitempty" doc:"How schedule is written."`
	Schedule         string  `key:"schedule" json:"schedule,omitempty" doc:"When to run it: \"Every day at 03:00\", or six cron fields beginning with seconds."`
	ScheduleEnabled  bool    `key:"schedule_enabled" default:"true" json:"schedule_enabled,omitempty" doc:"Whether the schedule counts."`
	ScheduleTimezone string  `key:"schedule_timezone" word:"timezone" json:"schedule_timezone,omitempty" doc:"IANA name of the schedule's zone; empty: the daemon's."`
	ScheduleAlert    bool    `key:"schedule_alert" default:"true" json:"schedule_alert,omitempty" doc:"Alert when the schedule starts it."`
	FailureAlert     bool    `key:"failure_alert" default:"true" json:"failure_alert,omitempty" doc:"Alert when it fails."`
	WebhookEnabled   bool    `key:"webhook_enabled" default:"true" json:"webhook_enabled,omitempty" doc:"Whether webhooks may trigger it."`
	WebhookSecret    string  `key:"webhook_secret" json:"-" doc:"Overrides the webhook secret."`
}

// A Stage is a set of executions that run side by side.
type Stage struct {
	Name       string           `key:"name" required:"true" json:"name" doc:"What to call it."`
	Enabled    bool             `key:"enabled" default:"true" json:"enabled" doc:"Whether it runs."`
	Executions []StageExecution `key:"executions,execution" json:"executions,omitempty" doc:"What runs in it, all at once."`
}

// A StageExecution is one execution of a stage.
type StageExecution struct {
	Execution Execution `key:"execution" word:"execution" required:"true" json:"execution" doc:"{ type = …, params = { … } }."`
	Enabled   bool      `key:"enabled" default:"true" json:"enabled" doc:"Whether it runs."`
}

// ResourceSyncConfig is the [resource_sync.config] table: a further repository that declares resources.
type ResourceSyncConfig struct {
	Source
	WebhookEnabled    bool     `key:"webhook_enabled" default:"true" json:"webhook_enabled,omitempty" doc:"Whether webhooks may trigger it."`
	WebhookSecret     string   `key:"webhook_secret" json:"-" doc:"Overrides the webhook secret."`
	FilesOnHost       bool     `key:"files_on_host" json:"files_on_host,omitempty" doc:"Accepted and not read: the daemon opens no files of its own host."`
	ResourcePath      []string `key:"resource_path" word:"strlist" json:"resource_path,omitempty" doc:"Files and folders to read, relative to the repository's root."`
	Managed           bool     `key:"managed" json:"managed,omitempty" doc:"Accepted; it never implies delete here, and nothing is written back."`
	IncludeResources  bool     `key:"include_resources" default:"true" json:"include_resources,omitempty" doc:"Take the resources it declares."`
	MatchTags         []string `key:"match_tags" word:"strlist" json:"match_tags,omitempty" doc:"Take only resources that have all these tags."`
	IncludeVariables  bool     `key:"include_variables" json:"include_variables,omitempty" doc:"Take the variables it declares."`
	IncludeUserGroups bool     `key:"include_user_groups" json:"include_user_groups,omitempty" doc:"Accepted: user groups are not handled by varan."`
	PendingAlert      bool     `key:"pending_alert" default:"true" json:"pending_alert,omitempty" doc:"Alert when changes wait to be applied."`
	FileContents      string   `key:"file_contents" word:"text" json:"file_contents,omitempty" doc:"Resources, inline."`

	Apply        string   `key:"apply" own:"true" default:"\"auto\"" enum:"auto manual" json:"apply,omitempty" doc:"Whether a merge is applied at once or waits for an approval. A further repository follows the config repository's."`
	Poll         Duration `key:"poll" own:"true" default:"\"1m\"" json:"poll,omitempty" doc:"How often to ask for new commits. A further repository is asked whenever the config repository is."`
	Drift        string   `key:"drift" own:"true" enum:"correct report" json:"drift,omitempty" doc:"Whether drift is put right or only shown; left out: correct, under compat report."`
	Delete       bool     `key:"delete" json:"delete,omitempty" doc:"Remove what is no longer declared."`
	MaxRemovals  int      `key:"max_removals" own:"true" range:"0 2147483647" json:"max_removals,omitempty" doc:"More removals in one run than this ask first; 0 means a quarter, at least one, never everything."`
	MaxFailures  int      `key:"max_failures" own:"true" default:"5" range:"0 2147483647" json:"max_failures,omitempty" doc:"After so many failed updates a run starts no further ones."`
	OnSurprise   string   `key:"on_surprise" own:"true" default:"\"ask\"" enum:"ask apply" json:"on_surprise,omitempty" doc:"What to do about a removal, data-loss or privilege warning the preview did not show."`
	PreviewForks string   `key:"preview_forks" own:"true" default:"\"collaborators\"" enum:"off collaborators all" json:"preview_forks,omitempty" doc:"Whose pull requests from forks are planned."`
	Approvers    []string `key:"approvers" own:"true" word:"strlist" json:"approvers,omitempty" doc:"Who may approve, among those the forge lets write; none: all of them."`
	Kinds        []string `key:"kinds" own:"true" word:"strlist" json:"kinds,omitempty" doc:"Patterns of the kinds it may declare beyond stacks, deployments, repos, builds and procedures; \"variable\" for variables."`
	Servers      []string `key:"servers" own:"true" word:"strlist" json:"servers,omitempty" doc:"Patterns of the servers its stacks and deployments may stand on; none means all."`
	Secrets      []string `key:"secrets" own:"true" word:"strlist" json:"secrets,omitempty" doc:"Patterns of the secrets it may use; none means no secret."`
}

// AlerterConfig is the [alerter.config] table: where alerts go.
type AlerterConfig struct {
	Enabled            bool     `key:"enabled" json:"enabled" doc:"Whether it sends."`
	Endpoint           Endpoint `key:"endpoint" json:"endpoint" doc:"Where it sends to: { type = \"Slack\", params = { url = … } }."`
	AlertTypes         []string `key:"alert_types" enum:"None Test ServerUnreachable ServerCpu ServerMem ServerDisk ServerVersionMismatch SwarmUnhealthy ContainerStateChange DeploymentImageUpdateAvailable DeploymentAutoUpdated StackStateChange StackImageUpdateAvailable StackAutoUpdated AwsBuilderTerminationFailed ResourceSyncPendingUpdates BuildFailed RepoBuildFailed ProcedureFailed ActionFailed ScheduleRun Custom" json:"alert_types,omitempty" doc:"The types of alert it sends; none means all."`
	Resources          []Target `key:"resources" json:"resources,omitempty" doc:"The resources it sends for; none means all."`
	ExceptResources    []Target `key:"except_resources" json:"except_resources,omitempty" doc:"The resources it is silent about."`
	MaintenanceWindows []Window `key:"maintenance_windows" json:"maintenance_windows,omitempty" doc:"Times in which it sends nothing."`
	ReportOutput       bool     `key:"report_output" own:"true" json:"report_output,omitempty" doc:"Send what containers, commands and builds printed; refused for public repositories."`
}

// An Endpoint is where an alerter sends to. It is a union: exactly the params of Type are set.
type Endpoint struct {
	Type     string            `key:"type" default:"\"Custom\"" json:"type" doc:"Custom, Slack, Discord, Ntfy or Pushover."`
	Custom   *CustomEndpoint   `variant:"Custom" json:"custom,omitempty" doc:"The alert as JSON, by POST."`
	Slack    *SlackEndpoint    `variant:"Slack" json:"slack,omitempty" doc:"A Slack incoming webhook."`
	Discord  *DiscordEndpoint  `variant:"Discord" json:"discord,omitempty" doc:"A Discord webhook."`
	Ntfy     *NtfyEndpoint     `variant:"Ntfy" json:"ntfy,omitempty" doc:"A topic of ntfy."`
	Pushover *PushoverEndpoint `variant:"Pushover" json:"pushover,omitempty" doc:"Pushover, with token and user in the URL."`
}

// URL is the endpoint's address, whatever its type.
func (e *Endpoint) URL() string {
	switch {
	case e.Custom != nil:
		return e.Custom.URL
	case e.Slack != nil:
		return e.Slack.URL
	case e.Discord != nil:
		return e.Discord.URL
	case e.Ntfy != nil:
		return e.Ntfy.URL
	case e.Pushover != nil:
		return e.Pushover.URL
	}
	return ""
}

// CustomEndpoint are the params of an endpoint of type Custom.
type CustomEndpoint struct {
	URL string `key:"url" default:"\"http://localhost:7000\"" json:"url" doc:"The address to POST to."`
}

// SlackEndpoint are the params of an endpoint of type Slack.
type SlackEndpoint struct {
	URL string `key:"url" json:"url" doc:"The incoming webhook's address."`
}

// DiscordEndpoint are the params of an endpoint of type Discord.
type DiscordEndpoint struct {
	URL string `key:"url" json:"url" doc:"The webhook's address."`
}

// NtfyEndpoint are the params of an endpoint of type Ntfy.
type NtfyEndpoint struct {
	URL   string `key:"url" default:"\"http://localhost:8080/komodo\"" json:"url" doc:"The topic's address."`
	Email string `key:"email" json:"email,omitempty" doc:"Also send a mail to this address."`
}

// PushoverEndpoint are the params of an endpoint of type Pushover.
type PushoverEndpoint struct {
	URL string `key:"url" json:"url" doc:"The address, with token and user in its query."`
}

// A Target names a resource by kind and name.
type Target struct {
	Type string `key:"type" required:"true" enum:"System Swarm Server Stack Deployment Build Repo Procedure Action Builder Alerter ResourceSync ServerTemplate" json:"type" doc:"The kind."`
	ID   string `key:"id" json:"id" doc:"The name."`
}

// ServerTemplateConfig is the [server_template.config] table: a machine to launch. It is a union: exactly
// the params of Type are set.
type ServerTemplateConfig struct {
	Type    string           `key:"type" default:"\"Aws\"" json:"type" doc:"Aws or Hetzner."`
	AWS     *AWSTemplate     `variant:"Aws" json:"aws,omitempty" doc:"An EC2 instance."`
	Hetzner *HetznerTemplate `variant:"Hetzner" json:"hetzner,omitempty" doc:"A Hetzner Cloud server."`
}

// AWSTemplate are the params of a server template of type Aws.
type AWSTemplate struct {
	Region           string      `key:"region" default:"\"us-east-1\"" json:"region,omitempty" doc:"The region."`
	InstanceType     string      `key:"instance_type" default:"\"t3.small\"" json:"instance_type,omitempty" doc:"The instance type."`
	AMIID            string      `key:"ami_id" json:"ami_id,omitempty" doc:"The image to start from."`
	SubnetID         string      `key:"subnet_id" json:"subnet_id,omitempty" doc:"The subnet."`
	KeyPairName      string      `key:"key_pair_name" json:"key_pair_name,omitempty" doc:"The SSH key pair."`
	AssignPublicIP   bool        `key:"assign_public_ip" default:"true" json:"assign_public_ip,omitempty" doc:"Give it a public address."`
	UsePublicIP      bool        `key:"use_public_ip" json:"use_public_ip,omitempty" doc:"Reach it by its public address."`
	Port             int         `key:"port" default:"8120" range:"1 65535" json:"port,omitempty" doc:"The agent's port."`
	UseHTTPS         bool        `key:"use_https" default:"true" json:"use_https,omitempty" doc:"Accepted and not used."`
	SecurityGroupIDs []string    `key:"security_group_ids" word:"strlist" json:"security_group_ids,omitempty" doc:"Its security groups."`
	Volumes          []AWSVolume `key:"volumes" json:"volumes,omitempty" doc:"Its volumes; none means one of 20 GB, gp2, at /dev/sda1."`
	UserData         string      `key:"user_data" json:"user_data,omitempty" doc:"What it runs at its first boot; empty: install Docker and the agent."`
}

// AWSVolume is a volume of an EC2 instance.
type AWSVolume struct {
	DeviceName string `key:"device_name" required:"true" json:"device_name" doc:"The device."`
	SizeGB     int    `key:"size_gb" required:"true" range:"1 65536" json:"size_gb" doc:"Its size in GB."`
	VolumeType string `key:"volume_type" required:"true" enum:"gp2 gp3 io1 io2" json:"volume_type" doc:"Its type."`
	IOPS       int    `key:"iops" required:"true" range:"0 2147483647" json:"iops" doc:"I/O operations per second; 0: the provider's default."`
	Throughput int    `key:"throughput" required:"true" range:"0 2147483647" json:"throughput" doc:"Throughput; 0: the provider's default."`
}

// HetznerTemplate are the params of a server template of type Hetzner.
type HetznerTemplate struct {
	Image             string            `key:"image" default:"\"ubuntu-24.04\"" json:"image,omitempty" doc:"The image to start from."`
	Datacenter        string            `key:"datacenter" default:"\"Nuremberg1Dc3\"" enum:"Nuremberg1Dc3 Helsinki1Dc2 Falkenstein1Dc14 AshburnDc1 HillsboroDc1 SingaporeDc1" json:"datacenter,omitempty" doc:"The data center."`
	PlacementGroup    int               `key:"placement_group" json:"placement_group,omitempty" doc:"The placement group; 0 means none."`
	ServerType        string            `key:"server_type" default:"\"SharedAmd2Core2Ram40Disk\"" enum:"SharedAmd2Core2Ram40Disk SharedArm2Core4Ram40Disk SharedIntel2Core4Ram40Disk SharedAmd3Core4Ram80Disk SharedArm4Core8Ram80Disk SharedIntel4Core8Ram80Disk SharedAmd4Core8Ram160Disk SharedArm8Core16Ram160Disk SharedIntel8Core16Ram160Disk SharedAmd8Core16Ram240Disk SharedArm16Core32Ram320Disk SharedIntel16Core32Ram320Disk SharedAmd16Core32Ram360Disk DedicatedAmd2Core8Ram80Disk DedicatedAmd4Core16Ram160Disk DedicatedAmd8Core32Ram240Disk DedicatedAmd16Core64Ram360Disk DedicatedAmd32Core128Ram600Disk DedicatedAmd48Core192Ram960Disk" json:"server_type,omitempty" doc:"The server type."`
	SSHKeys           []string          `key:"ssh_keys" word:"strlist" json:"ssh_keys,omitempty" doc:"Ids or names of SSH keys."`
	PrivateNetworkIDs []int             `key:"private_network_ids" json:"private_network_ids,omitempty" doc:"Private networks it joins."`
	EnablePublicIPv4  bool              `key:"enable_public_ipv4" json:"enable_public_ipv4,omitempty" doc:"Give it a public IPv4 address."`
	EnablePublicIPv6  bool              `key:"enable_public_ipv6" json:"enable_public_ipv6,omitempty" doc:"Give it a public IPv6 address."`
	UsePublicIP       bool              `key:"use_public_ip" json:"use_public_ip,omitempty" doc:"Reach it by its public IPv4 address, not the first private one."`
	Port              int               `key:"port" default:"8120" range:"1 65535" json:"port,omitempty" doc:"The agent's port."`
	UseHTTPS          bool              `key:"use_https" default:"true" json:"use_https,omitempty" doc:"Accepted and not used."`
	FirewallIDs       []int             `key:"firewall_ids" json:"firewall_ids,omitempty" doc:"Its firewalls."`
	Labels            map[string]string `key:"labels" json:"labels,omitempty" doc:"Its labels."`
	Volumes           []HetznerVolume   `key:"volumes" json:"volumes,omitempty" doc:"Its volumes."`
	UserData          string            `key:"user_data" json:"user_data,omitempty" doc:"What it runs at its first boot; empty: install Docker and the agent."`
}

// HetznerVolume is a volume of a Hetzner Cloud server.
type HetznerVolume struct {
	Name   string            `key:"name" required:"true" json:"name" doc:"Its name."`
	SizeGB int               `key:"size_gb" required:"true" range:"1 65536" json:"size_gb" doc:"Its size in GB."`
	Format string            `key:"format" default:"\"Xfs\"" enum:"Xfs Ext4" json:"format,omitempty" doc:"Its file system."`
	Labels map[string]string `key:"labels" json:"labels,omitempty" doc:"Its labels."`
}
