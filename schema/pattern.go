package schema

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Patterns match names: each is a wildcard over the whole name, or a regular expression between
// backslashes, searched anywhere in it.
type Patterns []Pattern

// A Pattern is one wildcard or regular expression.
type Pattern struct {
	text string
	re   *regexp.Regexp // nil: text is a plain name
}

// CompilePatterns reads patterns separated by commas or lines, with comments.
func CompilePatterns(text string) (Patterns, error) {
	var ps Patterns
	for _, s := range ParseStringList(text) {
		p, err := CompilePattern(s)
		if err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// CompilePattern reads one pattern.
func CompilePattern(s string) (Pattern, error) {
	if strings.HasPrefix(s, `\`) && strings.HasSuffix(s, `\`) {
		if len(s) < 3 {
			return Pattern{}, errors.New(`a regular expression stands between two backslashes: \^web-\`)
		}
		if len(s) > 1000 {
			return Pattern{}, errors.New("a pattern has more than 1000 characters")
		}
		re, err := regexp.Compile(s[1 : len(s)-1])
		if err != nil {
			return Pattern{}, fmt.Errorf("pattern %s: %w", s, err)
		}
		return Pattern{text: s, re: re}, nil
	}
	if !strings.ContainsAny(s, `*?\`) {
		return Pattern{text: s}, nil
	}
	if len(s) > 1000 {
		return Pattern{}, errors.New("a pattern has more than 1000 characters")
	}
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	escaped, star := false, false
	for _, c := range s {
		switch {
		case escaped:
			b.WriteString(regexp.QuoteMeta(string(c)))
			escaped = false
		case c == '\\':
			escaped = true
		case c == '*':
			if !star {
				b.WriteString(`.*`)
			}
		case c == '?':
			b.WriteString(`.`)
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
		star = c == '*' && !escaped
	}
	if escaped {
		b.WriteString(`\\`)
	}
	b.WriteString(`\z`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return Pattern{}, fmt.Errorf("pattern %s: %w", s, err)
	}
	return Pattern{text: s, re: re}, nil
}

// Match says whether the pattern takes the name.
func (p Pattern) Match(name string) bool {
	if p.re == nil {
		return p.text == name
	}
	return p.re.MatchString(name)
}

// String is the pattern as written.
func (p Pattern) String() string { return p.text }

// Match says whether any pattern takes the name.
func (ps Patterns) Match(name string) bool {
	for _, p := range ps {
		if p.Match(name) {
			return true
		}
	}
	return false
}
