package compose

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/varanhq/varan/plan"
)

// sharing lists what a service has of other containers: of a service, or of a container by its name.
func sharing(def types.ServiceConfig) []plan.Share {
	var out []plan.Share
	add := func(what, ref string) {
		s := plan.Share{What: what}
		if name, ok := strings.CutPrefix(ref, types.ServicePrefix); ok {
			s.Service = name
		} else if name, ok := strings.CutPrefix(ref, types.ContainerPrefix); ok {
			s.Container = name
		}
		if s.Service+s.Container != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	add(plan.ShareNetwork, def.NetworkMode)
	add(plan.ShareIPC, def.Ipc)
	add(plan.SharePID, def.Pid)
	for _, v := range def.VolumesFrom { // SERVICE[:ro] or container:NAME[:ro]
		kind, name := types.ServicePrefix, v
		if rest, ok := strings.CutPrefix(v, types.ContainerPrefix); ok {
			kind, name = types.ContainerPrefix, rest
		}
		name, _, _ = strings.Cut(name, ":")
		add(plan.ShareVolumes, kind+name)
	}
	return out
}

// shares is sharing, with the containers of this project as its services.
func (m *model) shares(def types.ServiceConfig) []plan.Share {
	out := sharing(def)
	for i, s := range out {
		if name := m.serviceOf(s.Container); name != "" && name != def.Name {
			out[i].Service, out[i].Container = name, ""
		}
	}
	return slices.Compact(out)
}

// serviceOf is the service whose one container has the name; "" if none has.
func (m *model) serviceOf(container string) string {
	if container == "" {
		return ""
	}
	for _, name := range m.project.ServiceNames() {
		def := m.project.Services[name]
		if def.GetScale() == 1 && container == cmp.Or(def.ContainerName, m.name+"-"+name+"-1") {
			return name
		}
	}
	return ""
}

// lean adds to depends_on whom a service shares something with by a container's name, as compose does by itself for
// "service:NAME": it must be made and started first.
func (m *model) lean() {
	for _, name := range m.project.ServiceNames() {
		def := m.project.Services[name]
		for _, s := range m.shares(def) {
			if _, ok := def.DependsOn[s.Service]; ok || s.Service == "" || m.needs(s.Service, name, map[string]bool{}) {
				continue
			}
			def.DependsOn = maps.Clone(def.DependsOn)
			if def.DependsOn == nil {
				def.DependsOn = types.DependsOnConfig{}
			}
			def.DependsOn[s.Service] = types.ServiceDependency{Condition: types.ServiceConditionStarted, Required: true, Restart: s.What != plan.ShareVolumes}
			m.project.Services[name] = def
		}
	}
}

// needs reports whether service a needs b, be it by way of others.
func (m *model) needs(a, b string, seen map[string]bool) bool {
	seen[a] = true
	for dep := range m.project.Services[a].DependsOn {
		if dep == b || !seen[dep] && m.needs(dep, b, seen) {
			return true
		}
	}
	return false
}
