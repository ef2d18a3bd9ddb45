package report

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/renderer/html"
)

// renderT is a comment as a forge shows it, raw HTML included.
func renderT(t testing.TB, md string) string {
	t.Helper()
	var b bytes.Buffer
	g := goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithRendererOptions(html.WithUnsafe(), html.WithHardWraps()))
	if err := g.Convert([]byte(md), &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var (
	alertHTML   = regexp.MustCompile(`(?s)<blockquote>\s*<p>\[!(\w+)\](?:<br ?/?>)?\s*(?:</p>)?`)
	mermaidHTML = regexp.MustCompile(`(?s)<pre><code class="language-mermaid">(.*?)</code></pre>`)
	diffHTML    = regexp.MustCompile(`(?s)<pre><code class="language-diff">(.*?)</code></pre>`)
)

// TestLook writes the comments as pages to look at: VARAN_LOOK is a folder; VARAN_MERMAID is mermaid.min.js.
func TestLook(t *testing.T) {
	dir := os.Getenv("VARAN_LOOK")
	if dir == "" {
		t.Skip("VARAN_LOOK names no folder to write pages to")
	}
	for name, md := range comments() {
		body := renderT(t, md)
		body = alertHTML.ReplaceAllStringFunc(body, func(s string) string {
			kind := alertHTML.FindStringSubmatch(s)[1]
			p := "<p>"
			if strings.HasSuffix(strings.TrimSpace(s), "</p>") {
				p = ""
			}
			return fmt.Sprintf(`<blockquote class="alert %s"><p class="t">%s</p>%s`, strings.ToLower(kind), kind[:1]+strings.ToLower(kind[1:]), p)
		})
		body = mermaidHTML.ReplaceAllString(body, `<pre class="mermaid">$1</pre>`)
		body = diffHTML.ReplaceAllStringFunc(body, func(s string) string {
			lines := strings.Split(diffHTML.FindStringSubmatch(s)[1], "\n")
			for i, l := range lines {
				if l == "" {
					continue
				}
				if c := map[byte]string{'+': "add", '-': "del", '!': "chg"}[l[0]]; c != "" {
					lines[i] = `<span class="` + c + `">` + l + `</span>`
				}
			}
			return "<pre><code>" + strings.Join(lines, "\n") + "</code></pre>"
		})
		page := strings.NewReplacer("BODY", body, "MERMAID", os.Getenv("VARAN_MERMAID")).Replace(lookPage)
		if err := os.WriteFile(filepath.Join(dir, name+".html"), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const lookPage = `<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>
body{margin:16px;font:14px/1.5 -apple-system,"Segoe UI","Noto Sans",Helvetica,Arial,sans-serif;color:#1f2328;background:#fff}
.box{border:1px solid #d1d9e0;border-radius:6px;max-width:888px;margin:auto}.who{background:#f6f8fa;border-bottom:1px solid #d1d9e0;border-radius:6px 6px 0 0;padding:8px 16px;color:#59636e}.who b{color:#1f2328}
.c{padding:16px;overflow-wrap:break-word}h3{font-size:1.25em;margin:0 0 16px;font-weight:600}p,ul,table,pre,blockquote,details{margin:0 0 16px}
details details{margin-bottom:8px}ul{padding-left:2em}sub{font-size:75%;vertical-align:sub}
code{background:#818b981f;padding:.2em .4em;border-radius:6px;font:85% ui-monospace,"DejaVu Sans Mono",monospace}pre{background:#f6f8fa;padding:16px;border-radius:6px;overflow:auto;line-height:1.45}pre code{background:none;padding:0}
table{border-collapse:collapse;display:block;width:max-content;max-width:100%;overflow:auto}td,th{border:1px solid #d1d9e0;padding:6px 13px}tr:nth-child(2n){background:#f6f8fa}
a{color:#0969da;text-decoration:none}a code{color:#0969da}.add{background:#dafbe1;color:#116329}.del{background:#ffebe9;color:#82071e}.chg{color:#953800}
blockquote{border-left:.25em solid #d1d9e0;padding:0 1em;color:#59636e}blockquote.alert{color:inherit;padding:8px 16px}blockquote.alert>:last-child{margin-bottom:0}.t{font-weight:500}
.caution{border-color:#d1242f}.caution .t{color:#d1242f}.warning{border-color:#9a6700}.warning .t{color:#9a6700}.important{border-color:#8250df}.important .t{color:#8250df}.note{border-color:#0969da}.note .t{color:#0969da}
summary{cursor:pointer}pre.mermaid{background:none;padding:0}
</style><div class="box"><div class="who"><b>varan-acme</b> bot commented</div><div class="c">BODY</div></div>
<script src="MERMAID"></script><script>if(window.mermaid)mermaid.initialize({startOnLoad:true,securityLevel:"strict"})</script>`
