package gs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// scope is the permission that is asked for: reading and writing objects.
const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// renewBefore is how long before its end a token is replaced.
const renewBefore = time.Minute

// tokenSource hands out access tokens of the default credentials: the file that
// GOOGLE_APPLICATION_CREDENTIALS names, that of gcloud, or the metadata server
// of Google's machines. They are looked for again for each token, about once an
// hour, so that a replaced file counts without a restart.
type tokenSource struct {
	client *http.Client
	find   func(ctx context.Context) (*oauth2.Token, error)

	// fetching is held by the one that fetches a token. Others wait for it no
	// longer than their context allows.
	fetching chan struct{}
	current  atomic.Pointer[oauth2.Token]
}

func newTokenSource(client *http.Client) *tokenSource {
	return &tokenSource{client: client, find: findToken, fetching: make(chan struct{}, 1)}
}

func findToken(ctx context.Context) (*oauth2.Token, error) {
	creds, err := google.FindDefaultCredentials(ctx, scope)
	if err != nil {
		return nil, &credentialsError{err: err, missing: true}
	}
	return creds.TokenSource.Token()
}

// token returns a token that is valid, and fetches one if there is none. An
// error is not remembered: the next call tries again.
func (ts *tokenSource) token(ctx context.Context) (*oauth2.Token, error) {
	if t := ts.current.Load(); lasts(t, renewBefore) {
		return t, nil
	}
	select {
	case ts.fetching <- struct{}{}:
		defer func() { <-ts.fetching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	old := ts.current.Load()
	if lasts(old, renewBefore) {
		return old, nil
	}
	t, err := ts.find(context.WithValue(ctx, oauth2.HTTPClient, ts.client))
	if err == nil {
		ts.current.Store(t)
		return t, nil
	}
	if lasts(old, 0) && ctx.Err() == nil {
		return old, nil // the next call asks again
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if _, ok := errors.AsType[*credentialsError](err); !ok {
		err = &credentialsError{err: err}
	}
	return nil, err
}

// drop forgets a token that the service refused.
func (ts *tokenSource) drop(t *oauth2.Token) { ts.current.CompareAndSwap(t, nil) }

// lasts reports whether a token is good for some more time. One without an end
// is good until it is refused.
func lasts(t *oauth2.Token, d time.Duration) bool {
	return t != nil && t.AccessToken != "" && (t.Expiry.IsZero() || time.Until(t.Expiry) > d)
}

// credentialsError says that there was no access token. It does not wrap its
// cause, which may be a missing file: that is no missing object.
type credentialsError struct {
	err     error
	missing bool // nothing was found; otherwise what was found did not work
}

// Error returns the cause.
func (e *credentialsError) Error() string { return fmt.Sprintf("get credentials: %v", e.err) }

// code returns what the token server said, if it is known.
func (e *credentialsError) code() string {
	if re, ok := errors.AsType[*oauth2.RetrieveError](e.err); ok {
		return re.ErrorCode
	}
	return ""
}

// permanent reports whether the token server refused the credentials
// themselves. A wrong clock looks like invalid_grant, and passes.
func (e *credentialsError) permanent() bool {
	switch e.code() {
	case "invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type":
		return true
	}
	return false
}
