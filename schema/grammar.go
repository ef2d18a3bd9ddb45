package schema

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ParseKeyValue reads a block of lines KEY=VALUE, KEY: VALUE or host:container, with comments, as
// environments, labels, ports and volumes are written. The Pos of an entry is its line (from 1) and column
// in text. Quotes stay part of a value unless they enclose the whole pair.
func ParseKeyValue(text string) ([]KV, error) {
	kvs, bad := parseKeyValue(text)
	if bad != nil {
		return kvs, fmt.Errorf("line %d: %s", bad.line+1, bad.what)
	}
	return kvs, nil
}

type badLine struct {
	line, column int
	text, what   string
}

func parseKeyValue(text string) (kvs []KV, first *badLine) {
	n := -1
	for raw := range strings.SplitSeq(text, "\n") {
		n++
		line := strings.TrimSpace(raw)
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "//") {
			continue
		}
		column := len(raw) - len(strings.TrimLeft(raw, " \t\r"))
		if i := strings.Index(line, " #"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		line = strings.TrimSpace(strings.TrimLeft(line, "-"))
		i := strings.IndexAny(line, "=:")
		if i < 0 {
			if first == nil {
				first = &badLine{line: n, column: column, text: line, what: fmt.Sprintf("%q has neither = nor :", line)}
			}
			continue
		}
		key, value := strings.TrimSpace(line[:i]), strings.TrimSpace(line[i+1:])
		if len(key) > 0 && isQuote(key[0]) && !isQuote(key[len(key)-1]) && len(value) > 0 && isQuote(value[len(value)-1]) {
			key, value = strings.TrimSpace(key[1:]), strings.TrimSpace(value[:len(value)-1])
		}
		kvs = append(kvs, KV{Key: key, Value: value, Pos: Pos{Line: n + 1, Column: column + 1}})
	}
	return kvs, first
}

func isQuote(c byte) bool { return c == '"' || c == '\'' }

// ParseStringList reads a list written as text: separated by lines and commas, with comments.
func ParseStringList(text string) []string {
	var list []string
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if i := strings.Index(line, " #"); i >= 0 {
			line = line[:i]
		}
		for s := range strings.SplitSeq(line, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
	}
	return list
}

// normalText is how a text value is kept: right-trimmed, with one newline at its end; empty stays empty.
func normalText(s string) string {
	s = strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), " \t\r\n")
	if s == "" {
		return ""
	}
	return s + "\n"
}

// Shell is the command line a Command stands for, "" for none: without shell_mode its lines are joined by
// &&, comments dropped, continued lines put together.
func (c Command) Shell() string {
	if c.ShellMode {
		return c.Command
	}
	var lines []string
	for line := range strings.SplitSeq(c.Command, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if i := strings.Index(line, " #"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		// A line that ends in a backslash goes on in the next one. Only there: elsewhere a backslash is the shell's.
		if n := len(lines); n > 0 && strings.HasSuffix(lines[n-1], `\`) {
			lines[n-1] = strings.TrimSpace(strings.TrimSuffix(lines[n-1], `\`)) + " " + line
			continue
		}
		lines = append(lines, line)
	}
	if n := len(lines); n > 0 {
		lines[n-1] = strings.TrimSpace(trimContinuation(lines[n-1]))
	}
	return strings.Join(lines, " && ")
}

// trimContinuation drops a line continuation with nothing after it, but not an escaped character.
func trimContinuation(s string) string {
	if s == `\` || strings.HasSuffix(s, ` \`) {
		return strings.TrimSuffix(s, `\`)
	}
	return s
}

// ParseVersion reads "major[.minor[.patch]]"; further parts are ignored.
func ParseVersion(s string) (Version, error) {
	if strings.TrimSpace(s) == "" {
		return Version{}, errors.New("a version is written major.minor.patch")
	}
	var v Version
	parts := strings.Split(s, ".")
	for i, p := range []*int{&v.Major, &v.Minor, &v.Patch} {
		if i >= len(parts) {
			break
		}
		n, err := strconv.Atoi(strings.TrimSpace(parts[i]))
		if err != nil || n < 0 {
			return Version{}, fmt.Errorf("%q is not a number", parts[i])
		}
		*p = n
	}
	return v, nil
}

// String is major.minor.patch.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// IsLatest says that no version is pinned.
func (v Version) IsLatest() bool { return v == Version{} }

// NormalName is the name a resource of that kind has when its author writes s: spaces trimmed, characters
// Docker would not take replaced. It may be empty, which is an error.
func NormalName(kind Kind, s string) string {
	s = strings.TrimSpace(s)
	switch kind {
	case KindStack, KindBuild:
		return trimStart(replaceOther(strings.ToLower(s), "_-"))
	case KindDeployment:
		return trimStart(replaceOther(s, "_.-"))
	case KindRepo:
		if !strings.ContainsAny(s, " \n") {
			return s
		}
		return strings.NewReplacer("\r\n", "_", "\n", "_", " ", "_").Replace(s)
	}
	if !strings.Contains(s, "\n") {
		return s
	}
	return strings.NewReplacer("\r\n", "_", "\n", "_").Replace(s)
}

func replaceOther(s, keep string) string {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 128 && strings.ContainsRune(keep, r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if ok(r) {
			return r
		}
		return '_'
	}, s)
}

func trimStart(s string) string {
	return strings.TrimLeftFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
	})
}

// Weekday is the day, Sunday = 0, of any usual English spelling: "Thursday", "thu", "Thurs".
func Weekday(s string) (day int, ok bool) {
	s = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(s), "."))
	if len(s) < 3 {
		return 0, false
	}
	for i, name := range []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"} {
		if strings.HasPrefix(name, s) {
			return i, true
		}
	}
	return 0, false
}
