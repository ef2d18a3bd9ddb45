package schema

import (
	"testing"
)

func parseText(t *testing.T, compat Compat, texts ...string) (*Config, Diagnostics) {
	t.Helper()
	var files []File
	for i, s := range texts {
		files = append(files, File{Path: string(rune('a'+i)) + ".toml", Data: []byte(s)})
	}
	return Parse(files, Options{Compat: compat})
}

func TestParseSmoke(t *testing.T) {
	c, diags := parseText(t, CompatNone, `[[server]]
name = "web1"
config.address = "local"

[[stack]]
name = "db"
[stack.config]
server = "web1"
file_contents = """
services: {}
"""
environment = """
# comment
A = 1
  B = [[SECRET]]
"""

[[deployment]]
name = "edge"
after = ["db"]
config.image = { type = "Image", params = { image = "nginx:1" } }
config.ports = "8080:80"

[[variable]]
name = "X"
value = "y"
`)
	for _, d := range diags {
		t.Errorf("%s:%d:%d: %s %s (%s)", d.File, d.Line, d.Column, d.Severity, d.Message, d.Hint)
	}
	s := c.Get("stack/db").Stack()
	t.Logf("%+v", s)
	if got := c.Get("deployment/edge").After; len(got) != 1 || got[0].ID != "stack/db" || got[0].Pos.Line != 20 {
		t.Errorf("after = %+v", got)
	}
	t.Logf("%+v", c.Get("deployment/edge").keys)
	t.Logf("%+v", c.Get("deployment/edge").Deployment())
}
