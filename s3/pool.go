package s3

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Pool hands out clients that share connections. The zero value is ready.
// A connection to an endpoint is kept for the life of the pool: there are as
// many as there are distinct endpoints and credentials, not as databases.
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
		if client := cn.httpClient.Load(); client != nil {
			client.CloseIdleConnections()
		}
	}
}

// connKey is everything that makes two clients need different connections.
type connKey struct {
	endpoint        string
	region          string
	regionBucket    string // the bucket whose region is looked up; else empty
	accessKeyID     string
	secretAccessKey string

	forcePathStyle     bool
	skipVerify         bool
	signPayload        bool
	signAcceptEncoding bool

	maxConns        int
	responseTimeout time.Duration
}

func (o Options) connKey() connKey {
	k := connKey{
		endpoint:           o.Endpoint,
		region:             o.Region,
		accessKeyID:        o.AccessKeyID,
		secretAccessKey:    o.SecretAccessKey,
		forcePathStyle:     o.ForcePathStyle,
		skipVerify:         o.SkipVerify,
		signPayload:        o.SignPayload,
		signAcceptEncoding: o.SignAcceptEncoding,
		maxConns:           o.MaxConns,
		responseTimeout:    o.ResponseTimeout,
	}
	if k.region == "" && strings.HasPrefix(o.Bucket, "arn:") {
		if fields := strings.Split(o.Bucket, ":"); len(fields) > 3 {
			k.region = fields[3]
		}
	}
	switch {
	case k.region != "":
	case k.endpoint != "":
		k.region = DefaultRegion
	default:
		k.regionBucket = o.Bucket
	}
	return k
}

func (p *Pool) connection(k connKey) *connection {
	return p.conns.Of(k, func(k connKey) *connection {
		return &connection{key: k, building: make(chan struct{}, 1)}
	})
}

// connection is one SDK client with its transport, made at first use.
type connection struct {
	key connKey

	// building is held by the one that makes the client, who may have to ask
	// for a region. Others wait for it no longer than their context allows.
	building   chan struct{}
	client     atomic.Pointer[s3.Client]
	httpClient atomic.Pointer[http.Client]

	// unconditional is set once the server has refused If-None-Match.
	unconditional atomic.Bool

	// rangeless is set once the server has sent more than was asked for.
	rangeless atomic.Bool
}

// get returns the SDK client and makes it if there is none yet. An error is not
// remembered: the next call tries again.
func (cn *connection) get(ctx context.Context, logger *slog.Logger) (*s3.Client, error) {
	if client := cn.client.Load(); client != nil {
		return client, nil
	}
	select {
	case cn.building <- struct{}{}:
		defer func() { <-cn.building }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if client := cn.client.Load(); client != nil {
		return client, nil
	}
	client, err := cn.build(ctx)
	if err != nil {
		return nil, err
	}
	cn.client.Store(client)
	logger.Debug("s3 client ready", "endpoint", publicEndpoint(cn.key.endpoint), "region", client.Options().Region)
	return client, nil
}

func (cn *connection) build(ctx context.Context) (*s3.Client, error) {
	region := cn.key.region
	if region == "" {
		region = DefaultRegion // where any bucket can be asked for its own
	}
	opts := []func(*config.LoadOptions) error{
		config.WithRegion(region),
		// A buildable client, because only such a one lets AWS_CA_BUNDLE in.
		config.WithHTTPClient(newBuildableClient(cn.key)),
		// The members of the default chain would write to standard error.
		config.WithLogger(sdkLogger(clientLogMode(os.Getenv("LITESTREAM_S3_DEBUG")))),
	}
	if cn.key.accessKeyID != "" && cn.key.secretAccessKey != "" {
		opts = append(opts, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(cn.key.accessKeyID, cn.key.secretAccessKey, "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("load aws config: %w", err)
	}
	httpClient, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return nil, fmt.Errorf("load aws config: unexpected http client %T", cfg.HTTPClient)
	}
	frozen := freezeClient(httpClient, cn.key)
	cfg.HTTPClient = frozen
	if old := cn.httpClient.Swap(frozen); old != nil {
		old.CloseIdleConnections() // of an attempt whose region look-up failed
	}

	client := s3.NewFromConfig(cfg, cn.setOptions)
	if cn.key.regionBucket == "" {
		return client, nil
	}
	region, err = bucketRegion(ctx, client, cn.key.regionBucket)
	if err != nil {
		return nil, fmt.Errorf("look up region of bucket: %w", err)
	}
	return s3.New(client.Options(), func(o *s3.Options) { o.Region = region }), nil
}

// setOptions sets what differs from the SDK's defaults.
func (cn *connection) setOptions(o *s3.Options) {
	if cn.key.endpoint != "" {
		o.BaseEndpoint = aws.String(cn.key.endpoint)
	}
	o.UsePathStyle = cn.key.forcePathStyle
	o.UseARNRegion = true
	o.Retryer = newRetryer()
	// Checksums that were not asked for make uploads fail on older servers
	// (over TLS as trailers); the signed payload hash protects them already.
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	o.DisableLogOutputChecksumValidationSkipped = true
	o.ClientLogMode = clientLogMode(os.Getenv("LITESTREAM_S3_DEBUG"))
	o.Logger = sdkLogger(o.ClientLogMode)
	o.APIOptions = append(o.APIOptions, stackOptions(cn.key)...)
}

// sdkLogger returns where the SDK writes: nowhere, as what matters comes back as
// an error, unless somebody asked for its log.
func sdkLogger(mode aws.ClientLogMode) logging.Logger {
	if mode == 0 {
		return logging.Nop{}
	}
	return logging.NewStandardLogger(os.Stderr)
}

// bucketRegion asks where a bucket lies. The oldest regions have odd names.
func bucketRegion(ctx context.Context, client *s3.Client, bucket string) (string, error) {
	out, err := client.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: aws.String(bucket)})
	if err != nil {
		return "", err
	}
	if out.LocationConstraint == "" {
		return DefaultRegion, nil
	}
	if out.LocationConstraint == types.BucketLocationConstraintEu {
		return "eu-west-1", nil
	}
	return string(out.LocationConstraint), nil
}

// clientLogMode reads LITESTREAM_S3_DEBUG: a comma list of what to log.
func clientLogMode(s string) aws.ClientLogMode {
	var mode aws.ClientLogMode
	for word := range strings.SplitSeq(s, ",") {
		switch strings.ToLower(strings.TrimSpace(word)) {
		case "signing":
			mode |= aws.LogSigning
		case "request":
			mode |= aws.LogRequest
		case "request-with-body":
			mode |= aws.LogRequestWithBody
		case "response":
			mode |= aws.LogResponse
		case "response-with-body":
			mode |= aws.LogResponseWithBody
		case "retries":
			mode |= aws.LogRetries
		case "all":
			mode |= aws.LogSigning | aws.LogRequestWithBody | aws.LogResponseWithBody | aws.LogRetries
		}
	}
	return mode
}
