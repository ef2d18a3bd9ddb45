package schema

// An Execution is one thing a procedure does: a type, and a pointer to the params struct of that type
// (see executionTypes), for example *StackParams for "DeployStack".
type Execution struct {
	Type   string `json:"type"`
	Params any    `json:"params"`
}

// The params of the execution types. Several types share one struct.
type (
	// NoParams are the params of types that take none.
	NoParams struct{}

	// PatternParams name resources by pattern.
	PatternParams struct {
		Pattern string   `key:"pattern" word:"pattern" required:"true" json:"pattern" doc:"Names, wildcards or \\regular expressions\\, separated by commas or lines."`
		Tags    []string `key:"tags" json:"tags,omitempty" doc:"Only resources with all these tags."`
	}

	// StackParams name a stack, and services of it.
	StackParams struct {
		Stack         string   `key:"stack" ref:"stack" required:"true" json:"stack" doc:"The stack."`
		Services      []string `key:"services" json:"services,omitempty" doc:"Only these services; none means all."`
		StopTime      int      `key:"stop_time" range:"0 2147483647" json:"stop_time,omitempty" doc:"Seconds to wait for containers to stop."`
		RemoveOrphans bool     `key:"remove_orphans" json:"remove_orphans,omitempty" doc:"Remove containers of services no longer declared."`
		Service       string   `key:"service" json:"service,omitempty" doc:"The former spelling of services, for one."`
	}

	// RunServiceParams run a one-off container of a stack's service.
	RunServiceParams struct {
		Stack        string            `key:"stack" ref:"stack" required:"true" json:"stack" doc:"The stack."`
		Service      string            `key:"service" required:"true" json:"service" doc:"The service."`
		Command      []string          `key:"command" word:"argv" json:"command,omitempty" doc:"The command and its arguments."`
		NoTTY        bool              `key:"no_tty" json:"no_tty,omitempty" doc:"Allocate no terminal."`
		NoDeps       bool              `key:"no_deps" json:"no_deps,omitempty" doc:"Start no linked services."`
		Detach       bool              `key:"detach" json:"detach,omitempty" doc:"Do not wait for it."`
		ServicePorts bool              `key:"service_ports" json:"service_ports,omitempty" doc:"Publish the service's ports."`
		Env          map[string]string `key:"env" json:"env,omitempty" doc:"Environment variables."`
		Workdir      string            `key:"workdir" json:"workdir,omitempty" doc:"The working directory."`
		User         string            `key:"user" json:"user,omitempty" doc:"The user."`
		Entrypoint   string            `key:"entrypoint" json:"entrypoint,omitempty" doc:"The entry point."`
		Pull         bool              `key:"pull" json:"pull,omitempty" doc:"Pull the image first."`
	}

	// DeployParams deploy a deployment.
	DeployParams struct {
		Deployment string `key:"deployment" ref:"deployment" required:"true" json:"deployment" doc:"The deployment."`
		StopSignal string `key:"stop_signal" enum:"SIGHUP=1 SIGINT=2 SIGQUIT=3 SIGTERM=15" json:"stop_signal,omitempty" doc:"The signal that stops the old container."`
		StopTime   int    `key:"stop_time" range:"0 2147483647" json:"stop_time,omitempty" doc:"Seconds to wait for it to stop."`
	}

	// DeploymentParams name a deployment.
	DeploymentParams struct {
		Deployment string `key:"deployment" ref:"deployment" required:"true" json:"deployment" doc:"The deployment."`
		Signal     string `key:"signal" enum:"SIGHUP=1 SIGINT=2 SIGQUIT=3 SIGTERM=15" json:"signal,omitempty" doc:"The signal; left out: termination_signal."`
		Time       int    `key:"time" range:"0 2147483647" json:"time,omitempty" doc:"Seconds to wait; left out: termination_timeout."`
	}

	// BuildParams name a build.
	BuildParams struct {
		Build string `key:"build" ref:"build" required:"true" json:"build" doc:"The build."`
	}

	// RepoParams name a repo.
	RepoParams struct {
		Repo string `key:"repo" ref:"repo" required:"true" json:"repo" doc:"The repo."`
	}

	// ProcedureParams name a procedure.
	ProcedureParams struct {
		Procedure string `key:"procedure" ref:"procedure" required:"true" json:"procedure" doc:"The procedure."`
		UpdateID  string `key:"update_id" json:"update_id,omitempty" doc:"Accepted and not used."`
	}

	// ActionParams name an action.
	ActionParams struct {
		Action   string         `key:"action" required:"true" json:"action" doc:"The action."`
		Args     map[string]any `key:"args" json:"args,omitempty" doc:"Its arguments."`
		UpdateID string         `key:"update_id" json:"update_id,omitempty" doc:"Accepted and not used."`
	}

	// SyncParams name a resource sync.
	SyncParams struct {
		Sync         string   `key:"sync" ref:"resource_sync" required:"true" json:"sync" doc:"The resource sync."`
		ResourceType string   `key:"resource_type" enum:"System Swarm Server Stack Deployment Build Repo Procedure Action Builder Alerter ResourceSync ServerTemplate" json:"resource_type,omitempty" doc:"Only resources of this kind."`
		Resources    []string `key:"resources" json:"resources,omitempty" doc:"Only these resources."`
	}

	// CommitSyncParams name a resource sync to write back.
	CommitSyncParams struct {
		Sync string `key:"sync,id,name" ref:"resource_sync" required:"true" json:"sync" doc:"The resource sync."`
	}

	// AlerterParams name an alerter.
	AlerterParams struct {
		Alerter string `key:"alerter" ref:"alerter" required:"true" json:"alerter" doc:"The alerter."`
	}

	// SendAlertParams are an alert to send.
	SendAlertParams struct {
		Level    string   `key:"level" default:"\"OK\"" enum:"OK WARNING CRITICAL" json:"level" doc:"Its severity."`
		Message  string   `key:"message" required:"true" json:"message" doc:"What it says."`
		Details  string   `key:"details" json:"details,omitempty" doc:"More of it."`
		Alerters []string `key:"alerters" ref:"alerter" json:"alerters,omitempty" doc:"The alerters that send it; none means all."`
	}

	// ContainerParams name a container on a server.
	ContainerParams struct {
		Server    string `key:"server" ref:"server" required:"true" json:"server" doc:"The server."`
		Container string `key:"container" required:"true" json:"container" doc:"The container."`
		Signal    string `key:"signal" enum:"SIGHUP=1 SIGINT=2 SIGQUIT=3 SIGTERM=15" json:"signal,omitempty" doc:"The signal."`
		Time      int    `key:"time" range:"0 2147483647" json:"time,omitempty" doc:"Seconds to wait for it to stop."`
	}

	// ServerParams name a server.
	ServerParams struct {
		Server string `key:"server" ref:"server" required:"true" json:"server" doc:"The server."`
	}

	// ObjectParams name a network, image or volume on a server.
	ObjectParams struct {
		Server string `key:"server" ref:"server" required:"true" json:"server" doc:"The server."`
		Name   string `key:"name" required:"true" json:"name" doc:"Its name."`
	}

	// SwarmParams are those of every swarm execution; varan carries none of them out.
	SwarmParams struct {
		Swarm          string   `key:"swarm" required:"true" json:"swarm" doc:"The swarm."`
		Nodes          []string `key:"nodes" json:"nodes,omitempty" doc:"Nodes to remove."`
		Force          bool     `key:"force" json:"force,omitempty" doc:"Remove them by force."`
		Node           string   `key:"node" json:"node,omitempty" doc:"The node to update."`
		Availability   string   `key:"availability" enum:"active pause drain" json:"availability,omitempty" doc:"Its availability."`
		LabelAdd       []string `key:"label_add" json:"label_add,omitempty" doc:"Labels to add."`
		LabelRm        []string `key:"label_rm" json:"label_rm,omitempty" doc:"Labels to remove."`
		Role           string   `key:"role" enum:"worker manager" json:"role,omitempty" doc:"Its role."`
		Stacks         []string `key:"stacks" json:"stacks,omitempty" doc:"Stacks to remove."`
		Detach         bool     `key:"detach" json:"detach,omitempty" doc:"Do not wait."`
		Services       []string `key:"services" json:"services,omitempty" doc:"Services to remove."`
		Name           string   `key:"name" json:"name,omitempty" doc:"Name of the config or secret."`
		Config         string   `key:"config" json:"config,omitempty" doc:"The config to rotate."`
		Configs        []string `key:"configs" json:"configs,omitempty" doc:"Configs to remove."`
		Secret         string   `key:"secret" json:"secret,omitempty" doc:"The secret to rotate."`
		Secrets        []string `key:"secrets" json:"secrets,omitempty" doc:"Secrets to remove."`
		Data           string   `key:"data" json:"-" doc:"The content."`
		Labels         []string `key:"labels" json:"labels,omitempty" doc:"Labels of it."`
		Driver         string   `key:"driver" json:"driver,omitempty" doc:"The secret driver."`
		TemplateDriver string   `key:"template_driver" json:"template_driver,omitempty" doc:"The template driver."`
	}

	// AutoUpdateParams are those of GlobalAutoUpdate.
	AutoUpdateParams struct {
		SkipAutoUpdate bool `key:"skip_auto_update" json:"skip_auto_update,omitempty" doc:"Only look, do not update."`
	}

	// ForceParams are those of RotateCoreKeys.
	ForceParams struct {
		Force bool `key:"force" json:"force,omitempty" doc:"Also when agents are away."`
	}

	// SleepParams are those of Sleep.
	SleepParams struct {
		DurationMS int64 `key:"duration_ms" range:"0 9223372036854" json:"duration_ms" doc:"Milliseconds to wait."`
	}
)

// An executionType is one word that may stand as an execution's type, and what its params may hold.
type executionType struct {
	name   string
	params any      // zero value of the params struct
	keys   []string // the keys this type takes of a struct it shares; nil means all
	swarm  bool     // not handled by varan
}

// executionTypes is in the order of the documentation.
var executionTypes = []executionType{
	{name: "None", params: NoParams{}},
	{name: "DeployStack", params: StackParams{}, keys: []string{"stack", "services", "service", "stop_time"}},
	{name: "BatchDeployStack", params: PatternParams{}},
	{name: "DeployStackIfChanged", params: StackParams{}, keys: []string{"stack", "stop_time"}},
	{name: "BatchDeployStackIfChanged", params: PatternParams{}},
	{name: "PullStack", params: StackParams{}, keys: []string{"stack", "services", "service"}},
	{name: "BatchPullStack", params: PatternParams{}},
	{name: "StartStack", params: StackParams{}, keys: []string{"stack", "services", "service"}},
	{name: "RestartStack", params: StackParams{}, keys: []string{"stack", "services", "service"}},
	{name: "PauseStack", params: StackParams{}, keys: []string{"stack", "services", "service"}},
	{name: "UnpauseStack", params: StackParams{}, keys: []string{"stack", "services", "service"}},
	{name: "StopStack", params: StackParams{}, keys: []string{"stack", "services", "service", "stop_time"}},
	{name: "DestroyStack", params: StackParams{}},
	{name: "BatchDestroyStack", params: PatternParams{}},
	{name: "RunStackService", params: RunServiceParams{}},
	{name: "Deploy", params: DeployParams{}},
	{name: "BatchDeploy", params: PatternParams{}},
	{name: "PullDeployment", params: DeploymentParams{}, keys: []string{"deployment"}},
	{name: "StartDeployment", params: DeploymentParams{}, keys: []string{"deployment"}},
	{name: "RestartDeployment", params: DeploymentParams{}, keys: []string{"deployment"}},
	{name: "PauseDeployment", params: DeploymentParams{}, keys: []string{"deployment"}},
	{name: "UnpauseDeployment", params: DeploymentParams{}, keys: []string{"deployment"}},
	{name: "StopDeployment", params: DeploymentParams{}},
	{name: "DestroyDeployment", params: DeploymentParams{}},
	{name: "BatchDestroyDeployment", params: PatternParams{}},
	{name: "RunBuild", params: BuildParams{}},
	{name: "BatchRunBuild", params: PatternParams{}},
	{name: "CancelBuild", params: BuildParams{}},
	{name: "CloneRepo", params: RepoParams{}},
	{name: "PullRepo", params: RepoParams{}},
	{name: "BuildRepo", params: RepoParams{}},
	{name: "CancelRepoBuild", params: RepoParams{}},
	{name: "BatchCloneRepo", params: PatternParams{}},
	{name: "BatchPullRepo", params: PatternParams{}},
	{name: "BatchBuildRepo", params: PatternParams{}},
	{name: "RunProcedure", params: ProcedureParams{}, keys: []string{"procedure"}},
	{name: "BatchRunProcedure", params: PatternParams{}},
	{name: "CancelProcedure", params: ProcedureParams{}},
	{name: "RunAction", params: ActionParams{}, keys: []string{"action", "args"}},
	{name: "BatchRunAction", params: PatternParams{}},
	{name: "CancelAction", params: ActionParams{}, keys: []string{"action", "update_id"}},
	{name: "RunSync", params: SyncParams{}},
	{name: "CommitSync", params: CommitSyncParams{}},
	{name: "TestAlerter", params: AlerterParams{}},
	{name: "SendAlert", params: SendAlertParams{}},
	{name: "StartContainer", params: ContainerParams{}, keys: []string{"server", "container"}},
	{name: "RestartContainer", params: ContainerParams{}, keys: []string{"server", "container"}},
	{name: "PauseContainer", params: ContainerParams{}, keys: []string{"server", "container"}},
	{name: "UnpauseContainer", params: ContainerParams{}, keys: []string{"server", "container"}},
	{name: "StopContainer", params: ContainerParams{}},
	{name: "DestroyContainer", params: ContainerParams{}},
	{name: "StartAllContainers", params: ServerParams{}},
	{name: "RestartAllContainers", params: ServerParams{}},
	{name: "PauseAllContainers", params: ServerParams{}},
	{name: "UnpauseAllContainers", params: ServerParams{}},
	{name: "StopAllContainers", params: ServerParams{}},
	{name: "PruneContainers", params: ServerParams{}},
	{name: "DeleteNetwork", params: ObjectParams{}},
	{name: "PruneNetworks", params: ServerParams{}},
	{name: "DeleteImage", params: ObjectParams{}},
	{name: "PruneImages", params: ServerParams{}},
	{name: "DeleteVolume", params: ObjectParams{}},
	{name: "PruneVolumes", params: ServerParams{}},
	{name: "PruneDockerBuilders", params: ServerParams{}},
	{name: "PruneBuildx", params: ServerParams{}},
	{name: "PruneSystem", params: ServerParams{}},
	{name: "RemoveSwarmNodes", params: SwarmParams{}, keys: []string{"swarm", "nodes", "force"}, swarm: true},
	{name: "UpdateSwarmNode", params: SwarmParams{}, keys: []string{"swarm", "node", "availability", "label_add", "label_rm", "role"}, swarm: true},
	{name: "RemoveSwarmStacks", params: SwarmParams{}, keys: []string{"swarm", "stacks", "detach"}, swarm: true},
	{name: "RemoveSwarmServices", params: SwarmParams{}, keys: []string{"swarm", "services"}, swarm: true},
	{name: "CreateSwarmConfig", params: SwarmParams{}, keys: []string{"swarm", "name", "data", "labels", "template_driver"}, swarm: true},
	{name: "RotateSwarmConfig", params: SwarmParams{}, keys: []string{"swarm", "config", "data"}, swarm: true},
	{name: "RemoveSwarmConfigs", params: SwarmParams{}, keys: []string{"swarm", "configs"}, swarm: true},
	{name: "CreateSwarmSecret", params: SwarmParams{}, keys: []string{"swarm", "name", "data", "driver", "labels", "template_driver"}, swarm: true},
	{name: "RotateSwarmSecret", params: SwarmParams{}, keys: []string{"swarm", "secret", "data"}, swarm: true},
	{name: "RemoveSwarmSecrets", params: SwarmParams{}, keys: []string{"swarm", "secrets"}, swarm: true},
	{name: "ClearRepoCache", params: NoParams{}},
	{name: "BackupCoreDatabase", params: NoParams{}},
	{name: "GlobalAutoUpdate", params: AutoUpdateParams{}},
	{name: "RotateAllServerKeys", params: NoParams{}},
	{name: "RotateCoreKeys", params: ForceParams{}},
	{name: "Sleep", params: SleepParams{}},
}
