package forge

import (
	"errors"
	"fmt"
	"time"
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
