package schema

// Subset is the Config without the resources that keep leaves out. Variables stay.
func (c *Config) Subset(keep func(*Resource) bool) *Config {
	out := *c
	out.Resources = make([]*Resource, 0, len(c.Resources))
	out.byID = make(map[ID]*Resource, len(c.Resources))
	for _, r := range c.Resources {
		if keep(r) {
			out.Resources = append(out.Resources, r)
			out.byID[r.ID] = r
		}
	}
	return &out
}
