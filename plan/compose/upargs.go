package compose

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/varanhq/varan/schema"
)

// UpArgs is what a stack's extra_args, flags of compose up, ask for.
type UpArgs struct {
	Build   bool // --build
	NoBuild bool
	Pull    string         // always, missing, never; "" = not said
	Scale   map[string]int // --scale SERVICE=N
}

// upIgnored are flags that ask for what varan does anyway, or speak of a terminal. true: takes a value.
var upIgnored = map[string]bool{
	"-d": false, "--detach": false, "--remove-orphans": false, "--quiet-pull": false, "--no-color": false, "--no-log-prefix": false,
	"--wait": false, "--wait-timeout": true, "-y": false, "--yes": false, "--no-deps": false, "--quiet-build": false,
	"--always-recreate-deps": false, "--force-recreate": false, "--no-recreate": false, "-t": true, "--timeout": true,
	"--timestamps": false, "--abort-on-container-exit": false, "--abort-on-container-failure": false,
}

// upRefused are flags that ask for something else than to be brought up and kept so.
var upRefused = map[string]string{
	"--renew-anon-volumes": "anonymous volumes are kept", "-V": "anonymous volumes are kept",
	"--no-start": `use ensure = "stopped"`, "--watch": "varan watches the repository", "-w": "varan watches the repository",
	"--attach": "", "--attach-dependencies": "", "--exit-code-from": "", "--menu": "", "--no-attach": "", "--dry-run": "use varan plan",
}

// ParseUpArgs understands extra_args. Flags that cannot be carried out are errors.
func ParseUpArgs(r *schema.Resource) (UpArgs, []schema.Diagnostic) {
	var u UpArgs
	var diags []schema.Diagnostic
	at := r.At("config.extra_args")
	fail := func(hint, format string, args ...any) {
		diags = append(diags, schema.Diagnostic{Severity: schema.SeverityError, Pos: at, Message: "extra_args: " + fmt.Sprintf(format, args...), Hint: hint})
	}
	var words []string
	for _, a := range r.Stack().ExtraArgs {
		words = append(words, strings.Fields(a)...)
	}
	for i := 0; i < len(words); i++ {
		flag, value, has := strings.Cut(words[i], "=")
		next := func() string {
			if !has && i+1 < len(words) {
				i++
				return words[i]
			}
			return value
		}
		switch flag {
		case "--build":
			u.Build = true
		case "--no-build":
			u.NoBuild = true
		case "--pull":
			if u.Pull = next(); u.Pull != "always" && u.Pull != "missing" && u.Pull != "never" {
				fail("one of always, missing, never", "--pull %q", u.Pull)
			}
		case "--scale":
			name, n, _ := strings.Cut(next(), "=")
			count, err := strconv.Atoi(n)
			if err != nil || count < 0 || name == "" {
				fail("write --scale SERVICE=NUMBER", "--scale %s=%s", name, n)
				continue
			}
			if u.Scale == nil {
				u.Scale = map[string]int{}
			}
			u.Scale[name] = count
		default:
			takes, ok := upIgnored[flag]
			hint, refused := upRefused[flag]
			switch {
			case ok && takes:
				next()
			case ok:
			case refused:
				fail(hint, "%s is not carried out", flag)
			default:
				fail("flags of compose up are understood", "%s is unknown", words[i])
			}
		}
	}
	return u, diags
}
