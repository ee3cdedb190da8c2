package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/webdav"
)

// ReplicaConfig is one `replica` entry.
type ReplicaConfig struct {
	position

	Type string `yaml:"type"`
	URL  string `yaml:"url"`
	Path string `yaml:"path"`

	ReplicaSettings `yaml:",inline"`

	maxConns int // to the object store; 0: the client's default
	// shared holds the client whose connections all databases of a directory use.
	shared *litestream.S3ClientPool
}

// ReplicaSettings are the keys that stand in a replica or, as a default for
// all replicas, at the top of the file. Unlike upstream, part-size and
// concurrency are inherited too.
type ReplicaSettings struct {
	SyncInterval    *time.Duration `yaml:"sync-interval"`
	MaxSyncLTXFiles *int           `yaml:"max-sync-ltx-files"`

	AccessKeyID     secret `yaml:"access-key-id"`
	SecretAccessKey secret `yaml:"secret-access-key"`
	Region          string `yaml:"region"`
	Bucket          string `yaml:"bucket"`
	Endpoint        string `yaml:"endpoint"`
	StorageClass    string `yaml:"storage-class"`

	ForcePathStyle      *bool `yaml:"force-path-style"`
	SignPayload         *bool `yaml:"sign-payload"`
	SignAcceptEncoding  *bool `yaml:"sign-accept-encoding"`
	RequireContentMD5   *bool `yaml:"require-content-md5"`
	PutObjectContentMD5 *bool `yaml:"put-object-content-md5"`
	SkipVerify          bool  `yaml:"skip-verify"`

	PartSize    *ByteSize `yaml:"part-size"`
	Concurrency *int      `yaml:"concurrency"`

	SSECustomerAlgorithm string `yaml:"sse-customer-algorithm"`
	SSECustomerKey       secret `yaml:"sse-customer-key"`
	SSECustomerKeyPath   string `yaml:"sse-customer-key-path"`
	SSEKMSKeyID          string `yaml:"sse-kms-key-id"`

	Host             string `yaml:"host"`
	User             string `yaml:"user"`
	Password         secret `yaml:"password"`
	KeyPath          string `yaml:"key-path"`
	HostKey          string `yaml:"host-key"`
	ConcurrentWrites *bool  `yaml:"concurrent-writes"`

	AccountName string `yaml:"account-name"`
	AccountKey  secret `yaml:"account-key"`
	SASToken    secret `yaml:"sas-token"`

	WebDAVURL      string `yaml:"webdav-url"`
	WebDAVUsername string `yaml:"webdav-username"`
	WebDAVPassword secret `yaml:"webdav-password"`

	JWT           secret         `yaml:"jwt"`
	Seed          secret         `yaml:"seed"`
	Creds         string         `yaml:"creds"`
	NKey          secret         `yaml:"nkey"`
	Username      string         `yaml:"username"`
	Token         secret         `yaml:"token"`
	TLS           *bool          `yaml:"tls"`
	RootCAs       []string       `yaml:"root-cas"`
	ClientCert    string         `yaml:"client-cert"`
	ClientKey     string         `yaml:"client-key"`
	MaxReconnects *int           `yaml:"max-reconnects"`
	ReconnectWait *time.Duration `yaml:"reconnect-wait"`
	Timeout       *time.Duration `yaml:"timeout"`

	Age AgeConfig `yaml:"age"`
}

// AgeConfig is v0.3's encryption, which v0.5 refuses.
type AgeConfig struct {
	position
	Identities []string `yaml:"identities"`
	Recipients []string `yaml:"recipients"`
}

// isZero reports whether no key is present.
func (c AgeConfig) isZero() bool { return len(c.Identities) == 0 && len(c.Recipients) == 0 }

// inherit fills what the replica leaves open from the defaults. A bucket or a
// host is not handed to a replica that names its place by URL: upstream does that and
// then refuses the combination.
func (c *ReplicaConfig) inherit(def *ReplicaSettings) {
	inheritPtr(&c.SyncInterval, def.SyncInterval)
	inheritPtr(&c.MaxSyncLTXFiles, def.MaxSyncLTXFiles)
	inheritValue(&c.AccessKeyID, def.AccessKeyID)
	inheritValue(&c.SecretAccessKey, def.SecretAccessKey)
	inheritValue(&c.Region, def.Region)
	if c.URL == "" {
		inheritValue(&c.Bucket, def.Bucket)
		inheritValue(&c.Host, def.Host)
		inheritValue(&c.WebDAVURL, def.WebDAVURL)
	}
	inheritValue(&c.Endpoint, def.Endpoint)
	inheritValue(&c.StorageClass, def.StorageClass)
	inheritPtr(&c.ForcePathStyle, def.ForcePathStyle)
	inheritPtr(&c.SignPayload, def.SignPayload)
	inheritPtr(&c.SignAcceptEncoding, def.SignAcceptEncoding)
	inheritPtr(&c.RequireContentMD5, def.RequireContentMD5)
	inheritPtr(&c.PutObjectContentMD5, def.PutObjectContentMD5)
	c.SkipVerify = c.SkipVerify || def.SkipVerify
	inheritPtr(&c.PartSize, def.PartSize)
	inheritPtr(&c.Concurrency, def.Concurrency)
	inheritValue(&c.SSECustomerAlgorithm, def.SSECustomerAlgorithm)
	inheritValue(&c.SSECustomerKey, def.SSECustomerKey)
	inheritValue(&c.SSECustomerKeyPath, def.SSECustomerKeyPath)
	inheritValue(&c.SSEKMSKeyID, def.SSEKMSKeyID)
	inheritValue(&c.AccountName, def.AccountName)
	inheritValue(&c.AccountKey, def.AccountKey)
	inheritValue(&c.SASToken, def.SASToken)
	inheritValue(&c.User, def.User)
	inheritValue(&c.Password, def.Password)
	inheritValue(&c.KeyPath, def.KeyPath)
	inheritValue(&c.HostKey, def.HostKey)
	inheritPtr(&c.ConcurrentWrites, def.ConcurrentWrites)
	inheritValue(&c.WebDAVUsername, def.WebDAVUsername)
	inheritValue(&c.WebDAVPassword, def.WebDAVPassword)
	c.inheritNATS(def)
	if c.Age.isZero() {
		c.Age = def.Age
	}
}

func inheritPtr[T any](p **T, def *T) {
	if *p == nil {
		*p = def
	}
}

func inheritValue[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// syncInterval returns the interval in force.
func (c *ReplicaConfig) syncInterval() time.Duration {
	return orDefault(c.SyncInterval, litestream.DefaultSyncInterval)
}

// replicaType returns the client type: the URL's scheme, else `type`, else
// "file".
func (c *ReplicaConfig) replicaType() string {
	return cmp.Or(litestream.ReplicaTypeFromURL(c.URL), c.Type, replicaTypeFile)
}

// Replica types.
const (
	replicaTypeFile = "file"
	replicaTypeS3   = "s3"
	replicaTypeGS   = "gs"
	replicaTypeABS  = "abs"
	replicaTypeOSS  = "oss"
	replicaTypeSFTP = "sftp"
	replicaTypeNATS = "nats"

	replicaTypeWebDAV = "webdav"
)

// isReplicaType reports whether there is such a type.
func isReplicaType(typ string) bool {
	return typ == replicaTypeFile || typ == replicaTypeSFTP || typ == replicaTypeWebDAV || typ == replicaTypeNATS || hasBucket(typ)
}

// hasBucket reports whether replicas of a type lie in a bucket, which their URL
// names.
func hasBucket(typ string) bool {
	switch typ {
	case replicaTypeS3, replicaTypeGS, replicaTypeABS, replicaTypeOSS:
		return true
	default:
		return false
	}
}

// takesRootedPath reports whether a path of the type may begin with a slash,
// and then means another place than without one.
func takesRootedPath(typ string) bool { return typ == replicaTypeSFTP }

// filePath returns the folder of a file replica. A URL without any path means
// the working directory, as upstream has it.
func (c *ReplicaConfig) filePath() string {
	if c.URL == "" {
		return filepath.Clean(c.Path)
	}
	_, _, urlPath, _, _, err := litestream.ParseReplicaURL(c.URL)
	if err != nil {
		return "" // refused by validateOwn
	}
	dir, err := filepath.Abs(filepath.FromSlash(urlPath))
	if err != nil {
		return "" // no working directory: nothing was read from one either
	}
	return dir
}

// redactedLocation names the place that a client writes to, in a form that is
// equal for two clients that write to the same place.
func redactedLocation(client litestream.ReplicaClient) string {
	if l, ok := client.(litestream.Locator); ok {
		return redactURL(l.Location())
	}
	return client.Type()
}

// logArgs returns what the log says of the replica behind a client.
func (c *ReplicaConfig) logArgs(client litestream.ReplicaClient) []any {
	args := []any{"type", client.Type(), "sync-interval", c.syncInterval()}
	switch client := client.(type) {
	case *file.ReplicaClient:
		args = append(args, "path", client.Path())
	case *s3.ReplicaClient:
		args = append(args, "bucket", client.Bucket, "path", client.Path, "region", client.Region, "endpoint", redactURL(client.Endpoint))
	case *abs.ReplicaClient:
		args = append(args, "bucket", client.Bucket, "path", client.Path, "endpoint", redactURL(client.Endpoint))
	case *gs.ReplicaClient:
		args = append(args, "bucket", client.Bucket, "path", client.Path)
	case *oss.ReplicaClient:
		args = append(args, "bucket", client.Bucket, "path", client.Path, "region", client.Region)
	case *sftp.ReplicaClient:
		args = append(args, "host", client.Host, "user", client.User, "path", client.Path)
	case *nats.ReplicaClient:
		args = append(args, "bucket", client.Bucket, "path", client.Path, "url", "nats://"+client.Server)
	case *webdav.ReplicaClient:
		args = append(args, "url", redactURL(client.URL), "path", client.Path)
	}
	return args
}

// newReplicaClient returns the client of a replica with its own keys checked
// and its defaults inherited. It makes no request.
func newReplicaClient(c *ReplicaConfig) (litestream.ReplicaClient, error) {
	if c.shared != nil {
		return c.sharedClient()
	}
	switch typ := c.replicaType(); typ {
	case replicaTypeFile:
		return file.NewReplicaClient(c.filePath()), nil
	case replicaTypeS3:
		cfg := c.s3Config()
		if c.URL != "" {
			var err error
			if cfg, err = cfg.WithURL(c.URL); err != nil {
				return nil, err
			}
		}
		return cfg.NewReplicaClient()
	case replicaTypeABS:
		cfg := abs.Config{
			AccountName: c.AccountName, AccountKey: string(c.AccountKey), SASToken: string(c.SASToken),
			Bucket: c.Bucket, Path: c.Path, Endpoint: c.Endpoint, MaxConns: c.maxConns,
		}
		if c.URL != "" {
			var err error
			if cfg, err = cfg.WithURL(c.URL); err != nil {
				return nil, err
			}
		}
		return cfg.NewReplicaClient()
	case replicaTypeGS:
		cfg := gs.Config{Bucket: c.Bucket, Path: c.Path, MaxConns: c.maxConns}
		if c.URL != "" {
			var err error
			if cfg, err = cfg.WithURL(c.URL); err != nil {
				return nil, err
			}
		}
		return cfg.NewReplicaClient()
	case replicaTypeOSS:
		return c.ossClient()
	case replicaTypeSFTP:
		return c.sftpClient()
	case replicaTypeWebDAV:
		return c.webdavClient()
	case replicaTypeNATS:
		return c.natsClient()
	default:
		return nil, fmt.Errorf("unknown replica type in config: %q", typ)
	}
}

// s3Config returns what the keys of the file say; a URL adds to it.
func (c *ReplicaConfig) s3Config() s3.Config {
	return s3.Config{
		AccessKeyID:          string(c.AccessKeyID),
		SecretAccessKey:      string(c.SecretAccessKey),
		Region:               c.Region,
		Bucket:               c.Bucket,
		Path:                 c.Path,
		Endpoint:             c.Endpoint,
		ForcePathStyle:       c.ForcePathStyle,
		SkipVerify:           c.SkipVerify,
		SignPayload:          c.SignPayload,
		SignAcceptEncoding:   c.SignAcceptEncoding,
		RequireContentMD5:    c.RequireContentMD5,
		PutObjectContentMD5:  c.PutObjectContentMD5,
		StorageClass:         c.StorageClass,
		PartSize:             int64(orDefault(c.PartSize, 0)),
		Concurrency:          orDefault(c.Concurrency, 0),
		SSECustomerAlgorithm: c.SSECustomerAlgorithm,
		SSECustomerKey:       string(c.SSECustomerKey),
		SSECustomerKeyPath:   c.SSECustomerKeyPath,
		SSEKMSKeyID:          c.SSEKMSKeyID,
		MaxConns:             c.maxConns,
	}
}

// ossClient returns a client of what the keys of the file say, and the URL.
func (c *ReplicaConfig) ossClient() (litestream.ReplicaClient, error) {
	cfg := oss.Config{
		AccessKeyID:     string(c.AccessKeyID),
		AccessKeySecret: string(c.SecretAccessKey),
		Bucket:          c.Bucket,
		Path:            c.Path,
		Region:          c.Region,
		Endpoint:        c.Endpoint,
		PartSize:        int64(orDefault(c.PartSize, 0)),
		Concurrency:     orDefault(c.Concurrency, 0),
		MaxConns:        c.maxConns,
	}
	if c.URL != "" {
		var err error
		if cfg, err = cfg.WithURL(c.URL); err != nil {
			return nil, err
		}
	}
	return cfg.NewReplicaClient()
}

// sftpClient returns a client of what the keys of the file say, and the URL.
func (c *ReplicaConfig) sftpClient() (litestream.ReplicaClient, error) {
	cfg := sftp.Config{
		Host:             c.Host,
		User:             c.User,
		Password:         string(c.Password),
		KeyPath:          c.KeyPath,
		HostKey:          c.HostKey,
		Path:             c.Path,
		ConcurrentWrites: c.ConcurrentWrites,
		MaxConns:         c.maxConns,
	}
	if c.URL != "" {
		var err error
		if cfg, err = cfg.WithURL(c.URL); err != nil {
			return nil, err
		}
	}
	return cfg.NewReplicaClient()
}

// webdavClient is sftpClient for WebDAV.
func (c *ReplicaConfig) webdavClient() (litestream.ReplicaClient, error) {
	cfg := webdav.Config{
		URL: c.WebDAVURL, Username: c.WebDAVUsername, Password: string(c.WebDAVPassword),
		Path: c.Path, MaxConns: c.maxConns,
	}
	if c.URL != "" {
		var err error
		if cfg, err = cfg.WithURL(c.URL); err != nil {
			return nil, err
		}
	}
	return cfg.NewReplicaClient()
}

// clientPath returns the path of the replica's client, in the form that its
// WithPrefix takes.
func (c *ReplicaConfig) clientPath() string {
	if c.replicaType() == replicaTypeFile {
		return c.filePath()
	}
	if c.URL == "" {
		if c.replicaType() == replicaTypeNATS {
			return "" // see natsClient
		}
		return c.Path
	}
	_, _, urlPath, _, _, err := litestream.ParseReplicaURL(c.URL)
	if err != nil {
		return "" // refused by validateOwn
	}
	return belowBucket(c.replicaType(), urlPath)
}

// storage returns a text that is equal for replicas that differ in nothing but
// their path: secrets are part of it.
func (c *ReplicaConfig) storage() string {
	where := ""
	if c.replicaType() == replicaTypeFile {
		where = filepath.Dir(c.filePath()) // file systems may differ
	} else if c.URL != "" {
		scheme, host, _, query, user, err := litestream.ParseReplicaURL(c.URL)
		if err != nil {
			return c.URL // refused by validateOwn
		}
		where = fmt.Sprintf("%s %s %s %s", scheme, host, query.Encode(), user)
	}
	settings, err := json.Marshal(c.ReplicaSettings)
	if err != nil {
		return c.URL + c.Path // of texts and numbers, which it can always encode
	}
	return c.replicaType() + " " + where + " " + string(settings)
}
