package blob

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// JudgeTransport looks at an error that came before there was an answer: whether
// no retry heals it, and what to change.
func JudgeTransport(err error) (permanent bool, hint string) {
	var (
		unknownCA x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &unknownCA):
		return true, "name the server's certificate authority in SSL_CERT_FILE"
	case errors.As(err, &wrongName), errors.As(err, &invalid):
		return true, "correct the endpoint or the server's certificate"
	case errors.As(err, &record):
		return true, "the endpoint does not speak TLS: use http://"
	case errors.As(err, &dns) && dns.IsNotFound:
		return false, "check the endpoint, and the host's name resolution"
	}
	return false, ""
}
