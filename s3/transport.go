package s3

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Retries of one request; how many and the longest pause are Litestream v0.5's.
const (
	maxAttempts = 8
	baseBackoff = 100 * time.Millisecond
	maxBackoff  = 1 * time.Second
)

// newBuildableClient returns a client whose transport the SDK may still change,
// as it does for AWS_CA_BUNDLE.
func newBuildableClient(k connKey) *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		if tr.TLSClientConfig == nil {
			tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		tr.TLSClientConfig.InsecureSkipVerify = k.skipVerify
	})
}

// freezeClient ends the SDK's right to change the client, and makes its
// connections give up on a silent peer.
func freezeClient(b *awshttp.BuildableClient, k connKey) *http.Client {
	tr := b.GetTransport()
	blob.Limit(tr, k.maxConns, k.responseTimeout)
	return &http.Client{Transport: tr, CheckRedirect: checkRedirect}
}

// checkRedirect follows only redirects that keep the method, and takes the
// session token to no other host. All others are the SDK's to report.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch req.Response.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return http.ErrUseLastResponse
	}
	if len(via) >= 3 {
		return http.ErrUseLastResponse
	}
	if via[len(via)-1].URL.Host != req.URL.Host {
		req.Header.Del("X-Amz-Security-Token")
	}
	return nil
}

// newRetryer returns the rule of when a request is sent again. There is no
// token bucket: with thousands of databases on one client it would turn a short
// outage into failures of requests that were never tried.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.MaxBackoff = maxBackoff
		o.Backoff = retry.BackoffDelayerFunc(backoffDelay)
		o.RateLimiter = ratelimit.None
		// The first that has an opinion counts.
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(refuseHopeless)}, o.Retryables...)
		o.Retryables = append(o.Retryables,
			retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{
				http.StatusRequestTimeout:  {},
				http.StatusTooManyRequests: {},
			}},
			retry.RetryableErrorCode{Codes: map[string]struct{}{
				"RequestCanceled":            {},
				"ConditionalRequestConflict": {}, // a concurrent write or delete of the key
				"OperationAborted":           {},
			}},
		)
	})
}

// refuseHopeless stops retries where the SDK sees a broken connection and the
// cause is a certificate.
func refuseHopeless(err error) aws.Ternary {
	if permanent, _ := judgeTransport(err); permanent {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// backoffDelay grows from 100 ms to one second, of which the upper half is
// random, so that many clients do not come back at once.
func backoffDelay(attempt int, _ error) (time.Duration, error) {
	d := maxBackoff
	if attempt < 4 {
		d = min(d, baseBackoff<<attempt)
	}
	return d/2 + rand.N(d/2), nil
}

// stackOptions returns the changes to every request.
func stackOptions(k connKey) []func(*middleware.Stack) error {
	opts := []func(*middleware.Stack) error{addUserAgent}
	if k.signPayload {
		opts = append(opts, signPayload)
	} else {
		opts = append(opts, leavePayloadUnsigned)
	}
	if !k.signAcceptEncoding {
		opts = append(opts, leaveAcceptEncodingUnsigned)
	}
	if h := detectProvider(k.endpoint).header; h[0] != "" {
		opts = append(opts, smithyhttp.AddHeaderValue(h[0], h[1]))
	}
	return opts
}

// payloadHashID names the SDK's middleware that hashes the payload, or declares
// it unsigned, before a request is signed.
const payloadHashID = "ComputePayloadHash"

// signPayload hashes the payload over TLS too, where the SDK would not, so that
// a server can tell an object that was cut short.
func signPayload(stack *middleware.Stack) error {
	if _, ok := stack.Finalize.Get(payloadHashID); !ok {
		return nil
	}
	_, err := stack.Finalize.Swap(payloadHashID, &v4.ComputePayloadSHA256{})
	return err
}

func leavePayloadUnsigned(stack *middleware.Stack) error {
	if _, ok := stack.Finalize.Get(payloadHashID); !ok {
		return nil
	}
	return v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware(stack)
}

// addUserAgent puts our name before the SDK's.
func addUserAgent(stack *middleware.Stack) error {
	return stack.Build.Add(middleware.BuildMiddlewareFunc("LitestreamUserAgent",
		func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
			if req, ok := in.Request.(*smithyhttp.Request); ok {
				req.Header.Set("User-Agent", "litestream "+req.Header.Get("User-Agent"))
			}
			return next.HandleBuild(ctx, in)
		}), middleware.After)
}

// leaveAcceptEncodingUnsigned takes the header away while the request is
// signed. Google's front end changes it, which would break the signature.
func leaveAcceptEncodingUnsigned(stack *middleware.Stack) error {
	const header = "Accept-Encoding"
	handler := func(id string, change func(h http.Header)) middleware.FinalizeMiddleware {
		return middleware.FinalizeMiddlewareFunc(id,
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
				if req, ok := in.Request.(*smithyhttp.Request); ok {
					change(req.Header)
				}
				return next.HandleFinalize(ctx, in)
			})
	}
	remove := handler("LitestreamRemoveAcceptEncoding", func(h http.Header) { h.Del(header) })
	restore := handler("LitestreamRestoreAcceptEncoding", func(h http.Header) { h.Set(header, "identity") })
	if err := stack.Finalize.Insert(remove, "Signing", middleware.Before); err != nil {
		return err
	}
	return stack.Finalize.Insert(restore, "Signing", middleware.After)
}

// sdkOptions are the SDK's settings of one request.
type sdkOptions = s3.Options

// withContentMD5 sends the MD5 of the payload of one request, in place of any
// other checksum of it.
func withContentMD5(o *sdkOptions) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		// An error says that the operation has no such middleware.
		_, _ = stack.Initialize.Remove("AWSChecksum:SetupInputContext")
		_, _ = stack.Finalize.Remove("AWSChecksum:ComputeInputPayloadChecksum")
		_, _ = stack.Finalize.Remove("addInputChecksumTrailer")
		return smithyhttp.AddContentChecksumMiddleware(stack)
	})
}
