package schema

import (
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// A shape is what a struct's tags say, read once: which keys a table may hold and what each becomes.
type shape struct {
	typ      reflect.Type
	fields   []*field          // in the order of the struct, embedded ones in place
	byKey    map[string]*field // also under aliases
	names    []string          // first names, for did-you-mean
	proto    reflect.Value     // a struct with all defaults filled in
	variants map[string]*field // of a union: by type
	words    []string          // of a union: its types in order
}

// A field is one key of a table.
type field struct {
	key     string
	names   []string // key and its aliases
	index   []int
	bit     uint64 // among the fields of its shape
	typ     reflect.Type
	word    string
	ref     Kind
	def     string // TOML text of the default, "" for none
	enum    []string
	alias   map[string]string // spelling to enum value
	own     bool
	need    bool
	ranged  bool
	lo, hi  float64
	doc     string
	shape   *shape // of a struct, or of a list's struct elements
	compact bool   // list elements may be a string: the field named path
}

// words that a field's Go type gives when its tag says none
func wordOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Command]():
		return "cmd"
	case reflect.TypeFor[Version]():
		return "version"
	case reflect.TypeFor[Duration]():
		return "duration"
	case reflect.TypeFor[map[string]string]():
		return "map"
	case reflect.TypeFor[map[string]any]():
		return "any"
	}
	switch t.Kind() {
	case reflect.String:
		return "str"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Float64:
		return "float"
	case reflect.Struct:
		return "table"
	case reflect.Slice:
		return "list"
	}
	return t.String()
}

// shapes are those of every struct of this package that stands for a table.
type shapes struct {
	of         map[reflect.Type]*shape
	kinds      map[Kind]*shape // of the kinds' config tables
	common     *shape
	applied    *shape
	variable   *shape
	executions map[string]*execShape
	execNames  []string
	imageOf    map[string]*shape // image params by type
}

type execShape struct {
	executionType
	shape *shape
	keys  map[string]bool
}

// resourceKeys are the keys every resource may have beside its config.
type resourceKeys struct {
	Name        string   `key:"name" required:"true" doc:"The resource's name, unique among its kind."`
	Description string   `key:"description" doc:"What it is for."`
	Template    bool     `key:"template" doc:"Marks the resource as a template for others."`
	Tags        []string `key:"tags" doc:"Tags, for match_tags and for reading."`
}

// appliedKeys are the further keys of stacks and deployments beside their config.
type appliedKeys struct {
	Deploy  bool     `key:"deploy" default:"true" doc:"true: a merge makes it run; false: changed only on request. Left out: true; under compat: what runs is kept up to date, what does not run stays so."`
	After   []string `key:"after" doc:"Stacks and deployments that must be healthy first, by name or as kind/name."`
	Ensure  string   `key:"ensure" own:"true" default:"\"running\"" enum:"running stopped completed" doc:"The state it is kept in."`
	Was     string   `key:"was" own:"true" doc:"Its former name: what ran under it is taken over without a restart."`
	Release bool     `key:"release" own:"true" doc:"Let go of it: its containers are left running and no longer looked after."`
}

type (
	imageParams struct {
		Image string `key:"image" doc:"The image's reference, as docker pull takes it."`
	}
	buildImageParams struct {
		Build   string  `key:"build,build_id" ref:"build" doc:"The build whose image it runs."`
		Version Version `key:"version" default:"\"0.0.0\"" doc:"The build's version; 0.0.0 means the latest."`
	}
)

// variableKeys are the keys of a [[variable]].
type variableKeys struct {
	Name        string `key:"name" required:"true" doc:"The name written as [[NAME]]."`
	Description string `key:"description" doc:"What it is for."`
	Value       string `key:"value" doc:"Its value; may hold [[SECRET]]."`
	IsSecret    bool   `key:"is_secret" doc:"The value is masked wherever it is shown."`
}

// kindConfigs gives each kind's Config struct.
var kindConfigs = map[Kind]reflect.Type{
	KindServer:         reflect.TypeFor[ServerConfig](),
	KindDeployment:     reflect.TypeFor[DeploymentConfig](),
	KindStack:          reflect.TypeFor[StackConfig](),
	KindRepo:           reflect.TypeFor[RepoConfig](),
	KindBuild:          reflect.TypeFor[BuildConfig](),
	KindBuilder:        reflect.TypeFor[BuilderConfig](),
	KindProcedure:      reflect.TypeFor[ProcedureConfig](),
	KindResourceSync:   reflect.TypeFor[ResourceSyncConfig](),
	KindAlerter:        reflect.TypeFor[AlerterConfig](),
	KindServerTemplate: reflect.TypeFor[ServerTemplateConfig](),
}

// Kinds are all kinds, in the order of the documentation.
func Kinds() []Kind {
	return []Kind{KindServer, KindDeployment, KindStack, KindRepo, KindBuild, KindBuilder, KindProcedure,
		KindResourceSync, KindAlerter, KindServerTemplate}
}

// theShapes is built once from the struct tags, which are constant.
var theShapes = sync.OnceValue(func() *shapes {
	ss := &shapes{of: map[reflect.Type]*shape{}, kinds: map[Kind]*shape{}, executions: map[string]*execShape{}}
	for k, t := range kindConfigs {
		ss.kinds[k] = ss.get(t)
	}
	ss.common = ss.get(reflect.TypeFor[resourceKeys]())
	ss.applied = ss.get(reflect.TypeFor[appliedKeys]())
	ss.variable = ss.get(reflect.TypeFor[variableKeys]())
	ss.imageOf = map[string]*shape{"Image": ss.get(reflect.TypeFor[imageParams]()), "Build": ss.get(reflect.TypeFor[buildImageParams]())}
	for _, e := range executionTypes {
		es := &execShape{executionType: e, shape: ss.get(reflect.TypeOf(e.params))}
		if e.keys != nil {
			es.keys = map[string]bool{}
			for _, k := range e.keys {
				es.keys[k] = true
			}
		}
		ss.executions[e.name] = es
		ss.execNames = append(ss.execNames, e.name)
	}
	return ss
})

func (ss *shapes) get(t reflect.Type) *shape {
	if s := ss.of[t]; s != nil {
		return s
	}
	s := &shape{typ: t, byKey: map[string]*field{}, proto: reflect.New(t).Elem()}
	ss.of[t] = s
	ss.add(s, t, nil)
	if len(s.fields) > 64 {
		panic("schema: " + t.String() + " has more keys than a decoder counts")
	}
	if s.variants != nil { // the default type's params stand in the prototype
		f := s.variants[s.proto.FieldByIndex(s.byKey["type"].index).String()]
		p := reflect.New(f.typ)
		p.Elem().Set(f.shape.proto)
		s.proto.FieldByIndex(f.index).Set(p)
	}
	return s
}

func (ss *shapes) add(s *shape, t reflect.Type, index []int) {
	for i := range t.NumField() {
		sf := t.Field(i)
		at := append(append([]int(nil), index...), i)
		if sf.Anonymous {
			ss.add(s, sf.Type, at)
			continue
		}
		if v, ok := sf.Tag.Lookup("variant"); ok {
			if s.variants == nil {
				s.variants = map[string]*field{}
			}
			s.variants[v] = &field{key: "params", names: []string{"params"}, index: at, typ: sf.Type.Elem(),
				word: "table", doc: sf.Tag.Get("doc"), shape: ss.get(sf.Type.Elem())}
			s.words = append(s.words, v)
			continue
		}
		tag, ok := sf.Tag.Lookup("key")
		if !ok {
			continue
		}
		f := &field{names: strings.Split(tag, ","), index: at, typ: sf.Type, word: sf.Tag.Get("word"),
			ref: Kind(sf.Tag.Get("ref")), def: sf.Tag.Get("default"), own: sf.Tag.Get("own") != "",
			need: sf.Tag.Get("required") != "", doc: sf.Tag.Get("doc")}
		f.key = f.names[0]
		if f.word == "" {
			f.word = wordOf(f.typ)
		}
		if e := sf.Tag.Get("enum"); e != "" {
			f.alias = map[string]string{}
			for _, w := range strings.Fields(e) {
				name, other, _ := strings.Cut(w, "=")
				f.enum = append(f.enum, name)
				f.alias[name] = name
				if other != "" {
					f.alias[other] = name
				}
			}
		}
		if r := sf.Tag.Get("range"); r != "" {
			lo, hi, _ := strings.Cut(r, " ")
			f.lo, _ = strconv.ParseFloat(lo, 64)
			f.hi, _ = strconv.ParseFloat(hi, 64)
			f.ranged = true
		}
		elem := f.typ
		if elem.Kind() == reflect.Slice {
			elem = elem.Elem()
		}
		if elem.Kind() == reflect.Struct && elem != reflect.TypeFor[KV]() && f.word != "version" && f.word != "image" && f.word != "execution" {
			f.shape = ss.get(elem)
			f.compact = elem == reflect.TypeFor[EnvFile]() || elem == reflect.TypeFor[ConfigFile]()
		}
		f.bit = uint64(1) << len(s.fields)
		s.fields = append(s.fields, f)
		s.names = append(s.names, f.key)
		for _, n := range f.names {
			s.byKey[n] = f
		}
		s.setDefault(f)
	}
}

// setDefault puts a field's default into the shape's prototype.
func (s *shape) setDefault(f *field) {
	dst := s.proto.FieldByIndex(f.index)
	if f.def == "" {
		if f.shape != nil && f.word == "table" {
			dst.Set(f.shape.proto)
		}
		if f.word == "image" {
			dst.Set(reflect.ValueOf(ImageConfig{Type: "Image"}))
		}
		return
	}
	var holder map[string]any
	if _, err := toml.Decode("v = "+f.def, &holder); err != nil {
		panic("schema: default of " + f.key + ": " + err.Error())
	}
	d := &decoder{}
	d.value(f, dst, holder["v"], nil, "")
	if len(d.diags) > 0 {
		panic("schema: default of " + f.key + ": " + d.diags[0].Message)
	}
}
