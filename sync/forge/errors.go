package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/varanhq/varan/sync/dial"
)

// What a forge may answer, so that callers can tell them apart. They stand wrapped in what was tried, on what.
var (
	// ErrNotFound: it is not there, or the credential may not see it.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized: the credential is wrong, expired or revoked. Trying again does not help.
	ErrUnauthorized = errors.New("the forge does not accept the credential")
	// ErrForbidden: the credential is good but not allowed to do this.
	ErrForbidden = errors.New("the credential is not allowed to do this")
	// ErrRefused: the forge understood and does not take it (a limit, a closed conversation, an unknown commit).
	ErrRefused = errors.New("the forge refuses it")
	// ErrTemporary: the forge is down, slow or unreachable. A write that ends so may have been done: read back
	// before it is repeated.
	ErrTemporary = errors.New("the forge cannot be reached now")
	// ErrTooLong: over one of our limits; nothing was sent.
	ErrTooLong = errors.New("too long")
	// ErrNotCapable: this forge or credential cannot do it; nothing was sent.
	ErrNotCapable = errors.New("this forge cannot do it")
)

// RateLimited says that nothing may be sent before Until. It has jitter in it, so that several clients do not all
// come back at the same moment.
type RateLimited struct {
	Until  time.Time
	Detail string
}

func (e *RateLimited) Error() string {
	return fmt.Sprintf("the forge's rate limit is reached until %s: %s", e.Until.UTC().Format(time.RFC3339), e.Detail)
}

// Retry reports whether the same call may succeed later without anybody doing anything, and not before when.
func Retry(err error) (when time.Time, ok bool) {
	if limited := (*RateLimited)(nil); errors.As(err, &limited) {
		return limited.Until, true
	}
	return time.Time{}, errors.Is(err, ErrTemporary)
}

// Err puts a client's failure into our words: what was tried, on what, and which of our errors it is. The answer
// may be nil; the message is what the forge wrote about it, cleaned of whatever does not belong in a line of text
// and of our secrets. A nil err is nil.
func (h *HTTP) Err(err error, res *http.Response, message, format string, args ...any) error {
	if err == nil {
		return nil
	}
	op := fmt.Sprintf(format, args...)
	var limited *RateLimited
	switch {
	case errors.As(err, &limited):
		return fmt.Errorf("%s: %w", op, limited)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", op, err)
	case errors.Is(err, dial.ErrRefused):
		return fmt.Errorf("%s: %w", op, &refused{h.clean(bare(err))})
	case res == nil:
		return fmt.Errorf("%s: %w: %s", op, ErrTemporary, h.clean(bare(err)))
	}
	if message == "" {
		message = http.StatusText(res.StatusCode)
	}
	said := fmt.Sprintf("%s (HTTP %d)", h.clean(message), res.StatusCode)
	switch code := res.StatusCode; {
	case code == http.StatusUnauthorized:
		return fmt.Errorf("%s: %w: %s", op, ErrUnauthorized, said)
	case code == http.StatusForbidden:
		return fmt.Errorf("%s: %w: %s", op, ErrForbidden, said)
	case code == http.StatusNotFound, code == http.StatusGone:
		return fmt.Errorf("%s: %w: %s", op, ErrNotFound, said)
	case code >= 500, code == http.StatusRequestTimeout:
		return fmt.Errorf("%s: %w: %s", op, ErrTemporary, said)
	case code >= 300:
		return fmt.Errorf("%s: %w: %s", op, ErrRefused, said)
	}
	// it said yes, in a way we cannot read: a proxy's page, an answer cut short
	return fmt.Errorf("%s: %w: its answer cannot be read: %s", op, ErrTemporary, h.clean(bare(err)))
}

// refused is a connection that our own rules forbid, in words that are clean.
type refused struct{ text string }

func (e *refused) Error() string        { return e.text }
func (e *refused) Is(target error) bool { return target == dial.ErrRefused || target == ErrRefused }

// Present leaves out the nulls that a list should not hold.
func Present[T any](list []*T) []*T {
	return slices.DeleteFunc(list, func(one *T) bool { return one == nil })
}

// bare takes the URL off a client's error: it is long, and op names the place.
func bare(err error) string {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	return err.Error()
}

// clean makes a stranger's text fit for one line of an error, without our secrets.
func (h *HTTP) clean(text string) string {
	h.mu.Lock()
	for _, s := range h.secrets {
		text = strings.ReplaceAll(text, s, "[secret]")
	}
	h.mu.Unlock()
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if r := []rune(text); len(r) > 300 {
		text = string(r[:300]) + "…"
	}
	return text
}
