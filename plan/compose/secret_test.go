package compose

import "testing"

func TestEscape(t *testing.T) {
	values := map[string]string{"A": "value", "B": "[[A]]"}
	for text, want := range map[string]string{
		"[[A]]":                 "value",
		"[[[A]]]":               "[[A]]",
		"x[[A]][[[A]]]y":        "xvalue[[A]]y",
		"[[B]]":                 "[[A]]",
		"[[UNKNOWN]]":           "[[UNKNOWN]]",
		"[[ -f x ]] && [[-n a]": "[[ -f x ]] && [[-n a]",
		"[[[1, 2], [3]]]":       "[[[1, 2], [3]]]",
	} {
		if got := Reveal(text, values); got != want {
			t.Errorf("Reveal(%q) = %q, want %q", text, got, want)
		}
		if got := reveal(hide(text), asName); got != text {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
}
