package schema

// The Config structs are the single source for decoding, defaults, the JSON Schema and docs/kinds: a field's
// tag names the TOML key, its aliases, its type word where Go's type does not say it, and its default.
//
//	key:"server,server_id"   the key, then its aliases
//	word:"strlist"           the type word of docs (strlist, text, kv-env, kv-label, kv-conv, kv-term, cmd, version, ref)
//	ref:"server"             the kind it names
//	default:"main"           TOML text of the default
//	enum:"a b c"             the values allowed; "TERM=15" also takes 15 for TERM
//	required:"true"          leaving it out is an error
//	range:"0 23"             the smallest and the greatest number allowed
//	variant:"Aws"            in a union: the params when type is Aws
//	since/own:"true"         our key, not Komodo's
//	doc:"…"                  one sentence for schema and docs

// KV is one line of a key-value block: environment, labels, ports, volumes, build args.
type KV struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Pos   Pos    `json:"-"`
}

// A Command is a shell command with the directory it runs in.
type Command struct {
	Path      string `key:"path" json:"path,omitempty" doc:"Directory relative to the resource's own folder."`
	Command   string `key:"command" word:"text" json:"command,omitempty" doc:"What to run; empty means nothing. Several lines are joined by && unless shell_mode is set."`
	ShellMode bool   `key:"shell_mode" json:"shell_mode,omitempty" doc:"Give the text to the shell unchanged."`
}

// A Duration is written "30s", "5m", "1h30m"; nanoseconds in Go.
type Duration int64

// OnFailure says what a failed update leaves behind.
type OnFailure string

const (
	OnFailureRollback OnFailure = "rollback"
	OnFailureKeep     OnFailure = "keep"
)

// Applying holds our keys that stand in the config of stacks and deployments.
type Applying struct {
	Settle        Duration  `key:"settle" own:"true" default:"\"5s\"" json:"settle" doc:"How long a container without a health check must run undisturbed to count as healthy."`
	HealthTimeout Duration  `key:"health_timeout" own:"true" default:"\"5m\"" json:"health_timeout" doc:"How long to wait for healthy before the step fails."`
	OnFailure     OnFailure `key:"on_failure" own:"true" default:"\"rollback\"" enum:"rollback keep" json:"on_failure" doc:"What a failed update leaves running: what ran before, or the new containers."`
	AllowMove     bool      `key:"allow_move" own:"true" json:"allow_move" doc:"Allow a step that changes where a bind mount's data lies."`
}

// ImageConfig is a deployment's image: a reference, or a Build's outcome.
type ImageConfig struct {
	Type    string  `json:"type"` // "Image" or "Build"
	Image   string  `json:"image,omitempty"`
	Build   string  `json:"build,omitempty"` // the build's name
	Version Version `json:"version,omitzero"`
}

// A Version is major.minor.patch; 0.0.0 means the latest.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Patch int `json:"patch"`
}

// DeploymentConfig is the [deployment.config] table: one container.
type DeploymentConfig struct {
	Swarm                string      `key:"swarm,swarm_id" json:"swarm,omitempty" doc:"Run as a service of this swarm. Not handled by varan."`
	Server               string      `key:"server,server_id" ref:"server" json:"server,omitempty" doc:"The server it runs on."`
	CustomName           string      `key:"custom_name" json:"custom_name,omitempty" doc:"The container's name if it differs from the deployment's."`
	Image                ImageConfig `key:"image" word:"image" json:"image" doc:"The image: { type = \"Image\", params = { image = … } } or { type = \"Build\", params = { build = …, version = … } }."`
	ImageRegistryAccount string      `key:"image_registry_account" json:"image_registry_account,omitempty" doc:"The account of [[docker_registry]] to pull with."`
	SkipSecretInterp     bool        `key:"skip_secret_interp" json:"skip_secret_interp,omitempty" doc:"Leave [[NAME]] as it is."`
	RedeployOnBuild      bool        `key:"redeploy_on_build" json:"redeploy_on_build,omitempty" doc:"Redeploy after the attached build succeeds."`
	PollForUpdates       bool        `key:"poll_for_updates" json:"poll_for_updates,omitempty" doc:"Look for a newer image behind the same tag."`
	AutoUpdate           bool        `key:"auto_update" json:"auto_update,omitempty" doc:"Redeploy when a newer image is found; implies poll_for_updates."`
	SendAlerts           bool        `key:"send_alerts" default:"true" json:"send_alerts,omitempty" doc:"Alert on a change of state."`
	Links                []string    `key:"links" json:"links,omitempty" doc:"Links shown on the page."`
	Network              string      `key:"network" default:"\"host\"" json:"network" doc:"The Docker network."`
	Restart              string      `key:"restart" default:"\"no\"" enum:"no on-failure always unless-stopped" json:"restart" doc:"The restart policy; on-failure means ten tries."`
	Command              string      `key:"command" json:"command,omitempty" doc:"Appended after the image."`
	Replicas             int         `key:"replicas" default:"1" json:"replicas,omitempty" doc:"Replicas of a swarm service. Not handled by varan."`
	TerminationSignal    string      `key:"termination_signal" default:"\"SIGTERM\"" enum:"SIGHUP=1 SIGINT=2 SIGQUIT=3 SIGTERM=15" json:"termination_signal,omitempty" doc:"The signal that stops it."`
	TerminationTimeout   int         `key:"termination_timeout" default:"10" range:"0 2147483647" json:"termination_timeout,omitempty" doc:"Seconds between that signal and SIGKILL."`
	ExtraArgs            []string    `key:"extra_args" word:"strlist" json:"extra_args,omitempty" doc:"Further flags of docker run."`
	TermSignalLabels     []KV        `key:"term_signal_labels" word:"kv-term" json:"term_signal_labels,omitempty" doc:"Labels for signals on the page."`
	Ports                []KV        `key:"ports" word:"kv-conv" json:"ports,omitempty" doc:"Published ports, host:container."`
	Volumes              []KV        `key:"volumes" word:"kv-conv" json:"volumes,omitempty" doc:"Mounts, host:container."`
	Environment          []KV        `key:"environment" word:"kv-env" json:"environment,omitempty" doc:"Environment variables."`
	Labels               []KV        `key:"labels" word:"kv-label" json:"labels,omitempty" doc:"Container labels."`
	Applying
}

// An EnvFile is an additional env file of a stack.
type EnvFile struct {
	Path  string `key:"path" json:"path" doc:"Relative to run_directory."`
	Track bool   `key:"track" default:"true" json:"track" doc:"Whether a change of the file is a change of the stack."`
}

// A ConfigFile is a further tracked file of a stack.
type ConfigFile struct {
	Path     string   `key:"path" json:"path" doc:"Relative to run_directory."`
	Services []string `key:"services,service" word:"strlist" json:"services,omitempty" doc:"The services that use it; none means all."`
	Requires string   `key:"requires,req" default:"\"None\"" enum:"Redeploy=redeploy Restart=restart None=none" json:"requires" doc:"What its change asks for."`
}

// A Source is where a resource's files come from when that is a Git repository.
type Source struct {
	LinkedRepo  string `key:"linked_repo" ref:"repo" json:"linked_repo,omitempty" doc:"Take the files from this repo resource."`
	GitProvider string `key:"git_provider" default:"\"github.com\"" json:"git_provider,omitempty" doc:"Domain of the Git provider."`
	GitHTTPS    bool   `key:"git_https" default:"true" json:"git_https,omitempty" doc:"Use https."`
	GitAccount  string `key:"git_account" json:"git_account,omitempty" doc:"The account of [[git_provider]] to fetch with."`
	Repo        string `key:"repo" json:"repo,omitempty" doc:"owner/name of the repository."`
	Branch      string `key:"branch" default:"\"main\"" json:"branch,omitempty" doc:"The branch."`
	Commit      string `key:"commit" json:"commit,omitempty" doc:"A commit to stay at."`
}

// StackConfig is the [stack.config] table: one compose project.
type StackConfig struct {
	Swarm                  string   `key:"swarm,swarm_id" json:"swarm,omitempty" doc:"Deploy to this swarm. Not handled by varan."`
	Server                 string   `key:"server,server_id" ref:"server" json:"server,omitempty" doc:"The server it runs on."`
	Links                  []string `key:"links" word:"strlist" json:"links,omitempty" doc:"Links shown on the page."`
	ProjectName            string   `key:"project_name" json:"project_name,omitempty" doc:"The compose project's name; empty: the stack's."`
	AutoPull               bool     `key:"auto_pull" default:"true" json:"auto_pull" doc:"Pull the images of services that are created or recreated."`
	RunBuild               bool     `key:"run_build" json:"run_build,omitempty" doc:"Build the services that have a build section."`
	PollForUpdates         bool     `key:"poll_for_updates" json:"poll_for_updates,omitempty" doc:"Look for newer images behind the same tags."`
	AutoUpdate             bool     `key:"auto_update" json:"auto_update,omitempty" doc:"Redeploy when a newer image is found."`
	AutoUpdateAllServices  bool     `key:"auto_update_all_services" json:"auto_update_all_services,omitempty" doc:"On auto_update, redeploy every service."`
	AutoUpdateSkipServices []string `key:"auto_update_skip_services" word:"strlist" json:"auto_update_skip_services,omitempty" doc:"Services auto_update leaves alone."`
	DestroyBeforeDeploy    bool     `key:"destroy_before_deploy" json:"destroy_before_deploy,omitempty" doc:"Take the project down before it is brought up again."`
	SkipSecretInterp       bool     `key:"skip_secret_interp" json:"skip_secret_interp,omitempty" doc:"Leave [[NAME]] as it is."`
	Source
	ClonePath                string       `key:"clone_path" json:"clone_path,omitempty" doc:"Accepted and not needed: files are laid at their paths under the stack's own folder."`
	Reclone                  bool         `key:"reclone" json:"reclone,omitempty" doc:"Accepted and not needed: a stack's folder is never deleted and cloned anew."`
	WebhookEnabled           bool         `key:"webhook_enabled" default:"true" json:"webhook_enabled,omitempty" doc:"Whether webhooks may trigger it."`
	WebhookSecret            string       `key:"webhook_secret" json:"-" doc:"Overrides the webhook secret."`
	WebhookForceDeploy       bool         `key:"webhook_force_deploy" json:"webhook_force_deploy,omitempty" doc:"A webhook redeploys even when nothing changed."`
	FilesOnHost              bool         `key:"files_on_host" json:"files_on_host,omitempty" doc:"The compose files already lie on the server."`
	RunDirectory             string       `key:"run_directory" json:"run_directory,omitempty" doc:"The working directory, relative to the source's root."`
	FilePaths                []string     `key:"file_paths" word:"strlist" json:"file_paths,omitempty" doc:"Compose files relative to run_directory; none means compose.yaml."`
	EnvFilePath              string       `key:"env_file_path" default:"\".env\"" json:"env_file_path" doc:"Where environment is written, relative to run_directory."`
	AdditionalEnvFiles       []EnvFile    `key:"additional_env_files" json:"additional_env_files,omitempty" doc:"Further env files, lowest priority first."`
	ConfigFiles              []ConfigFile `key:"config_files" json:"config_files,omitempty" doc:"Further files whose change is a change of the stack."`
	SendAlerts               bool         `key:"send_alerts" default:"true" json:"send_alerts,omitempty" doc:"Alert on a change of state."`
	RegistryProvider         string       `key:"registry_provider" json:"registry_provider,omitempty" doc:"Domain of the registry to pull from with an account."`
	RegistryAccount          string       `key:"registry_account" json:"registry_account,omitempty" doc:"The account of [[docker_registry]] to pull with."`
	PreDeploy                Command      `key:"pre_deploy" json:"pre_deploy,omitzero" doc:"Run on the server before compose."`
	PostDeploy               Command      `key:"post_deploy" json:"post_deploy,omitzero" doc:"Run on the server after a successful deploy."`
	ExtraArgs                []string     `key:"extra_args" word:"strlist" json:"extra_args,omitempty" doc:"Further flags of compose up."`
	BuildExtraArgs           []string     `key:"build_extra_args" word:"strlist" json:"build_extra_args,omitempty" doc:"Further flags of compose build."`
	ComposeCmdWrapper        string       `key:"compose_cmd_wrapper" json:"compose_cmd_wrapper,omitempty" doc:"A command around compose. Not carried out: varan runs no compose command."`
	ComposeCmdWrapperInclude []string     `key:"compose_cmd_wrapper_include" word:"strlist" json:"compose_cmd_wrapper_include,omitempty" doc:"Which compose commands are wrapped."`
	IgnoreServices           []string     `key:"ignore_services" word:"strlist" json:"ignore_services,omitempty" doc:"Services left out of the stack's state and gate."`
	FileContents             string       `key:"file_contents" word:"text" json:"file_contents,omitempty" doc:"The compose file, inline."`
	Environment              []KV         `key:"environment" word:"kv-env" json:"environment,omitempty" doc:"Variables for compose, written to env_file_path."`
	Applying
	Directory string `key:"directory" own:"true" json:"directory,omitempty" doc:"The project's folder on the server; pins where relative bind mounts lie."`
}
