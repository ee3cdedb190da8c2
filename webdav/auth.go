package webdav

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/icholy/digest"
)

// auth is how a server wants its credentials: plain (Basic, RFC 7617), or in a
// digest (RFC 7616), of which every request has one of its own. The zero value
// has not asked the server yet. It is safe for concurrent use.
type auth struct {
	mu        sync.Mutex // guards what follows; never held across I/O
	known     bool
	challenge *digest.Challenge // nil: Basic
	uses      int               // of the challenge
}

// learn asks a server that is new how it wants the credentials, without any:
// a password must not go in the clear to a server that wants a digest, and a
// large file must not be sent to learn that its sender is unknown.
func (c *ReplicaClient) learn(ctx context.Context, cn *connection, target *url.URL) error {
	if c.Username == "" || cn.auth.isKnown() {
		return nil
	}
	req, err := c.newRequest(ctx, request{method: "PROPFIND", target: target, header: map[string]string{"Depth": "0"}})
	if err != nil {
		return err
	}
	resp, err := cn.http.Do(req)
	if err != nil {
		return err
	}
	drain(resp)
	// Over TLS Basic is as good, and costs the server less.
	if resp.StatusCode == http.StatusUnauthorized && (target.Scheme != "https" || !offersBasic(resp.Header)) {
		cn.auth.challenged(resp.Header)
	}
	cn.auth.mu.Lock()
	cn.auth.known = true
	cn.auth.mu.Unlock()
	return nil
}

func (a *auth) isKnown() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known
}

// challenged takes over a challenge, if the header has one that we can answer.
func (a *auth) challenged(h http.Header) bool {
	challenge, err := digest.FindChallenge(h)
	if err != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known, a.challenge, a.uses = true, challenge, 0
	return true
}

// authorize adds the credentials to a request.
func (a *auth) authorize(req *http.Request, username, password string) error {
	if username == "" {
		return nil
	}
	a.mu.Lock()
	challenge := a.challenge
	a.uses++
	uses := a.uses
	a.mu.Unlock()
	if challenge == nil {
		req.SetBasicAuth(username, password)
		return nil
	}
	credentials, err := digest.Digest(challenge, digest.Options{
		Method: req.Method, URI: req.URL.RequestURI(), GetBody: req.GetBody, Count: uses, Username: username, Password: password,
	})
	if err != nil {
		return fmt.Errorf("answer the server's challenge: %w", err)
	}
	req.Header.Set("Authorization", credentials.String())
	return nil
}

func offersBasic(h http.Header) bool {
	for _, v := range h.Values("WWW-Authenticate") {
		if scheme, _, _ := strings.Cut(v, " "); strings.EqualFold(scheme, "Basic") {
			return true
		}
	}
	return false
}
