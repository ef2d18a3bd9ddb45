package plan

import (
	"errors"
	"strings"
)

// Words splits text as a shell would, without expanding anything.
func Words(text string) ([]string, error) {
	var out []string
	var word strings.Builder
	in, quote := false, rune(0)
	escaped := false
	for _, c := range text {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteRune(c)
			}
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if in {
				out = append(out, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("ends inside a quote")
	}
	if in {
		out = append(out, word.String())
	}
	return out, nil
}

// Arguments turns extra_args into words. An entry that begins with "-" is split as a shell would, so that
// "--cap-add NET_ADMIN" is two words; any other entry is one word as it stands, so that
// ["--health-cmd", "test -e /ready"] needs no quotes within quotes.
func Arguments(entries []string) ([]string, error) {
	var out []string
	for _, e := range entries {
		words, err := Words(e)
		switch {
		case strings.HasPrefix(strings.TrimSpace(e), "-"):
			if err != nil {
				return nil, errors.New(e + " " + err.Error())
			}
			out = append(out, words...)
		case err == nil && len(words) <= 1:
			out = append(out, words...)
		default:
			out = append(out, e)
		}
	}
	return out, nil
}
