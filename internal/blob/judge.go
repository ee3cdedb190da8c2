package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// TransportHints say what to change when no answer came, in the words of one
// kind of storage.
type TransportHints struct {
	UnknownCA string // nobody trusts who signed the server's certificate
	WrongName string // the certificate is another host's, or not valid
	NoTLS     string // the server does not speak TLS
	NoHost    string // the host's name has no address
}

var transportHints = TransportHints{
	UnknownCA: "name the server's certificate authority in SSL_CERT_FILE",
	WrongName: "correct the endpoint or the server's certificate",
	NoTLS:     "the endpoint does not speak TLS: use http://",
	NoHost:    "check the endpoint, and the host's name resolution",
}

// JudgeTransport is Judge in words that fit most.
func JudgeTransport(err error) (permanent bool, hint string) { return transportHints.Judge(err) }

// Judge looks at an error that came before there was an answer: whether no retry
// heals it, and what to change.
func (h TransportHints) Judge(err error) (permanent bool, hint string) {
	var (
		unknownCA x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &unknownCA):
		return true, h.UnknownCA
	case errors.As(err, &wrongName), errors.As(err, &invalid):
		return true, h.WrongName
	case errors.As(err, &record):
		return true, h.NoTLS
	case errors.As(err, &dns) && dns.IsNotFound:
		return false, h.NoHost
	}
	return false, ""
}

// ContextCode returns the code of an error that has none of the service's:
// Canceled or DeadlineExceeded if a context ended, else nothing.
func ContextCode(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "Canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "DeadlineExceeded"
	}
	return ""
}
