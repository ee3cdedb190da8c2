package abs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Retries of one request. Litestream v0.5 goes on for some minutes; here whoever
// called decides when to try again, so that a request that fails does not hold
// a worker. What the service asks for in Retry-After is waited for.
const (
	maxRetries = 7
	retryDelay = 100 * time.Millisecond
	maxDelay   = 2 * time.Second
)

// retryStatus are the answers that a retry may heal.
var retryStatus = []int{
	http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
	http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// Pool hands out clients that share connections and credentials. The zero
// value is ready. What it shares lives as long as the pool: there are as many
// as there are distinct endpoints and credentials, not as databases.
type Pool struct {
	conns blob.Shared[connKey, *connection]
}

// sharedPool serves every client that was not made by another pool.
var sharedPool Pool

// Get returns a client for cfg that uses the pool's connections.
func (p *Pool) Get(cfg Config) (*ReplicaClient, error) {
	c, err := cfg.NewReplicaClient()
	if err != nil {
		return nil, err
	}
	c.pool = p
	return c, nil
}

// CloseIdleConnections closes the connections that carry no request.
func (p *Pool) CloseIdleConnections() {
	for _, cn := range p.conns.All() {
		cn.client.CloseIdleConnections()
	}
}

// connKey is everything that makes two clients need different connections.
type connKey struct {
	endpoint        string
	accountName     string
	accountKey      string
	sasToken        string
	maxConns        int
	responseTimeout time.Duration
}

// connection is what all clients of one endpoint and credential share.
type connection struct {
	client  *http.Client
	service *service.Client
}

func (p *Pool) connection(o Options) (*connection, error) {
	k := connKey{o.Endpoint, o.AccountName, o.AccountKey, o.SASToken, o.MaxConns, o.ResponseTimeout}
	return p.conns.Get(k, newConnection)
}

// newConnection makes no request.
func newConnection(k connKey) (cn *connection, err error) {
	cn = &connection{client: &http.Client{
		Transport: blob.NewTransport(k.maxConns, k.responseTimeout),
		// The service redirects nobody. Following would show the token to
		// whoever says so.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	opts := azcore.ClientOptions{
		Transport: cn.client,
		Telemetry: policy.TelemetryOptions{ApplicationID: "litestream"},
		Retry: policy.RetryOptions{
			MaxRetries: maxRetries, RetryDelay: retryDelay, MaxRetryDelay: maxDelay, ShouldRetry: shouldRetry,
		},
	}
	serviceOpts := &service.ClientOptions{ClientOptions: opts}
	switch {
	case k.sasToken != "":
		cn.service, err = service.NewClientWithNoCredential(k.endpoint+"/?"+k.sasToken, serviceOpts)
	case k.accountName != "" && k.accountKey != "":
		var cred *service.SharedKeyCredential
		if cred, err = service.NewSharedKeyCredential(k.accountName, k.accountKey); err == nil {
			cn.service, err = service.NewClientWithSharedKeyCredential(k.endpoint+"/", cred, serviceOpts)
		}
	default:
		var cred *azidentity.DefaultAzureCredential
		if cred, err = azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: opts}); err == nil {
			cn.service, err = service.NewClient(k.endpoint+"/", credential{cred}, serviceOpts)
		}
	}
	if err != nil {
		return nil, &credentialsError{err}
	}
	return cn, nil
}

// shouldRetry is asked after each attempt of a request.
func shouldRetry(resp *http.Response, err error) bool {
	if err != nil {
		permanent, _ := blob.JudgeTransport(err)
		return !permanent
	}
	return slices.Contains(retryStatus, resp.StatusCode)
}

// credential gets access tokens from the default chain: environment, workload
// identity, managed identity, and the command line tools of Azure.
type credential struct{ chain azcore.TokenCredential }

// GetToken returns a token. It is called when the one before is about to end.
func (c credential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	t, err := c.chain.GetToken(ctx, options)
	if err == nil {
		return t, nil
	}
	if ctx.Err() != nil {
		return t, ctx.Err()
	}
	return t, &credentialsError{err}
}

// credentialsError says that there was no access token. It does not wrap its
// cause, which may be a missing file: that is no missing blob.
type credentialsError struct{ err error }

// Error returns the cause in one line.
func (e *credentialsError) Error() string {
	const most = 500
	text := strings.Join(strings.Fields(e.err.Error()), " ")
	return fmt.Sprintf("get credentials: %s", text[:min(len(text), most)])
}

// NonRetriable keeps the SDK from asking again at once (azcore's retry policy).
func (e *credentialsError) NonRetriable() {}

// refused reports whether the credentials were found, and were wrong.
func (e *credentialsError) refused() bool {
	af, ok := errors.AsType[*azidentity.AuthenticationFailedError](e.err)
	return ok && af.RawResponse != nil && (af.RawResponse.StatusCode == http.StatusBadRequest || af.RawResponse.StatusCode == http.StatusUnauthorized)
}
