package oss

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Limits of asking the metadata server. Elsewhere than on Alibaba's machines
// nobody answers at its address.
const (
	metadataDialTimeout = 2 * time.Second
	metadataTimeout     = 10 * time.Second
	maxMetadata         = 64 << 10 // bytes of an answer
)

// roleSource gets temporary keys of the machine's RAM role from the metadata
// server, in its hardened form first, in which a token is needed to ask
// (https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata).
type roleSource struct {
	endpoint string
	client   *http.Client
}

func newRoleSource(endpoint string) *roleSource {
	dialer := &net.Dialer{Timeout: metadataDialTimeout}
	return &roleSource{endpoint: endpoint, client: &http.Client{
		// No proxy: the answer is about this machine. No connection is kept:
		// one is needed every few hours.
		Transport:     &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true},
		Timeout:       metadataTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

const rolePath = "/latest/meta-data/ram/security-credentials/"

// get returns keys of the role that ALIBABA_CLOUD_ECS_METADATA names, else of
// the machine's.
func (rs *roleSource) get(ctx context.Context) (*accessKeys, error) {
	if strings.EqualFold(os.Getenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED"), "true") {
		return nil, &credentialsError{text: "none in configuration and environment, and the metadata server is disabled", missing: true}
	}
	token, err := rs.token(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &credentialsError{text: "none in configuration and environment, and no metadata server: " + err.Error(), missing: true}
	}
	role := os.Getenv("ALIBABA_CLOUD_ECS_METADATA")
	if role == "" {
		b, status, err := rs.ask(ctx, http.MethodGet, rolePath, token)
		role = strings.TrimSpace(string(b))
		switch {
		case err != nil:
			return nil, badCredentials("ask for the machine's role: %v", err)
		case status == http.StatusNotFound, status == http.StatusOK && role == "":
			return nil, &credentialsError{text: "none in configuration and environment, and the machine has no RAM role", missing: true}
		case status != http.StatusOK:
			return nil, badCredentials("ask for the machine's role: status %d", status)
		}
	}
	b, status, err := rs.ask(ctx, http.MethodGet, rolePath+url.PathEscape(role), token)
	if err != nil {
		return nil, badCredentials("ask for keys of role %s: %v", role, err)
	}
	if status != http.StatusOK {
		return nil, badCredentials("ask for keys of role %s: status %d", role, status)
	}
	return parseRoleKeys(role, b)
}

func parseRoleKeys(role string, b []byte) (*accessKeys, error) {
	var doc struct {
		Code            string
		AccessKeyID     string `json:"AccessKeyId"`
		AccessKeySecret string
		SecurityToken   string
		Expiration      time.Time
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, badCredentials("keys of role %s: the answer is no JSON of the metadata server", role)
	}
	if doc.Code != "Success" || doc.AccessKeyID == "" || doc.AccessKeySecret == "" {
		return nil, badCredentials("keys of role %s: code %q", role, doc.Code)
	}
	return &accessKeys{id: doc.AccessKeyID, secret: doc.AccessKeySecret, token: doc.SecurityToken, expires: doc.Expiration}, nil
}

// token returns what a hardened metadata server wants to see, empty if it does
// not know of it.
func (rs *roleSource) token(ctx context.Context) (string, error) {
	b, status, err := rs.ask(ctx, http.MethodPut, "/latest/api/token", "")
	if err != nil || status != http.StatusOK {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

func (rs *roleSource) ask(ctx context.Context, method, path, token string) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, rs.endpoint+path, http.NoBody)
	if err != nil {
		return nil, 0, blob.WithoutURL(err)
	}
	if method == http.MethodPut {
		req.Header.Set("X-Aliyun-Ecs-Metadata-Token-Ttl-Seconds", "60")
	}
	if token != "" {
		req.Header.Set("X-Aliyun-Ecs-Metadata-Token", token)
	}
	resp, err := rs.client.Do(req)
	if err != nil {
		return nil, 0, blob.WithoutURL(err)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata))
	return b, resp.StatusCode, errors.Join(err, resp.Body.Close())
}
