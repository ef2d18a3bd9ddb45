package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		want []string
		bad  bool
	}{
		{name: "flag and value in one entry", in: []string{"--cap-add NET_ADMIN"}, want: []string{"--cap-add", "NET_ADMIN"}},
		{name: "a value with spaces is one word", in: []string{"--health-cmd", "test $K = x"}, want: []string{"--health-cmd", "test $K = x"}},
		{name: "a value in quotes loses them", in: []string{"--health-cmd", "'test x'"}, want: []string{"--health-cmd", "test x"}},
		{name: "quotes within an entry", in: []string{"-e 'C=1 2'"}, want: []string{"-e", "C=1 2"}},
		{name: "an open quote in a flag", in: []string{"--health-cmd 'x"}, bad: true},
		{name: "an apostrophe in a value", in: []string{"--health-cmd", "echo it's fine"}, want: []string{"--health-cmd", "echo it's fine"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Arguments(c.in)
			if (err != nil) != c.bad {
				t.Fatalf("err = %v", err)
			}
			if diff := cmp.Diff(got, c.want); diff != "" {
				t.Error(diff)
			}
		})
	}
}
