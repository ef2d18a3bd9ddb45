package plan

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// digestVersion begins every Digest. It changes only together with the golden digests, because a new one
// makes every running container look changed.
const digestVersion = "1:"

// CanonicalJSON encodes v in the one form digests are over: keys sorted, no white space, no HTML escaping,
// numbers as they were written. Equal values give equal bytes.
func CanonicalJSON(v any) (json.RawMessage, error) {
	first, err := encodePlain(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	dec := json.NewDecoder(bytes.NewReader(first))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("read back %T: %w", v, err)
	}
	out, err := encodePlain(tree)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return out, nil
}

func encodePlain(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// NewDigest identifies a unit's declared spec with the files it uses. spec is canonical JSON; the order of
// files does not matter.
func NewDigest(spec json.RawMessage, files []FileHash) Digest {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b FileHash) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Hash, b.Hash))
	})
	h := sha256.New()
	writeField(h.Write, string(spec))
	for _, f := range files {
		writeField(h.Write, f.Path)
		writeField(h.Write, f.Hash)
	}
	return sumDigest(h.Sum(nil))
}

// ResourceDigest covers all units of a resource: what a failed gate holds.
func ResourceDigest(units []Unit) Digest {
	lines := make([]string, 0, len(units))
	for _, u := range units {
		lines = append(lines, u.Service+"\x00"+string(u.Digest)+"\x00"+strconv.Itoa(max(u.Scale, 1)))
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, l := range lines {
		writeField(h.Write, l)
	}
	return sumDigest(h.Sum(nil))
}

// writeField writes s after its length, so that no two lists of fields give the same bytes.
func writeField(write func([]byte) (int, error), s string) {
	// A hash never fails to be written to.
	_, _ = write([]byte(strconv.Itoa(len(s)) + ":"))
	_, _ = write([]byte(s))
}

func sumDigest(sum []byte) Digest { return Digest(digestVersion + hex.EncodeToString(sum[:16])) }

// Short is enough of a digest or hash for people.
func Short(hash string) string {
	hash = strings.TrimPrefix(hash, digestVersion)
	return hash[:min(len(hash), 8)]
}
