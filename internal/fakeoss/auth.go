package fakeoss

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxSkew is how far a client's clock may be off.
const maxSkew = 15 * time.Minute

// authorization is what the header of that name says.
type authorization struct {
	keyID, date, region, product string
	additional                   []string // further headers that are signed
	signature                    string
}

func parseAuthorization(text string) (a authorization, ok bool) {
	text, ok = strings.CutPrefix(text, "OSS4-HMAC-SHA256 ")
	if !ok {
		return a, false
	}
	for field := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		switch name {
		case "Credential":
			scope := strings.Split(value, "/")
			if len(scope) != 5 || scope[4] != "aliyun_v4_request" {
				return a, false
			}
			a.keyID, a.date, a.region, a.product = scope[0], scope[1], scope[2], scope[3]
		case "AdditionalHeaders":
			a.additional = strings.Split(value, ";")
		case "Signature":
			a.signature = value
		}
	}
	return a, a.keyID != "" && a.signature != ""
}

// authenticate checks that a request was signed a short while ago with the
// server's keys, and for it.
func (s *Server) authenticate(c *call) *apiError {
	h := c.r.Header
	a, ok := parseAuthorization(h.Get("Authorization"))
	if !ok {
		return refuse(http.StatusForbidden, "AccessDenied", "The request has no signature of version 4.")
	}
	signed, err := time.Parse("20060102T150405Z", h.Get("X-Oss-Date"))
	switch skew := s.Now().Sub(signed); {
	case err != nil || signed.Format("20060102") != a.date:
		return refuse(http.StatusForbidden, "AccessDenied", "Invalid signing date in Authorization header.")
	case skew > maxSkew || skew < -maxSkew:
		return refuse(http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
	case a.keyID != s.AccessKeyID:
		return refuse(http.StatusForbidden, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
	case h.Get("X-Oss-Security-Token") != s.SecurityToken:
		return refuse(http.StatusForbidden, "InvalidSecurityToken", "The security token you provided is invalid.")
	case a.region != s.Region || a.product != "oss":
		return refuse(http.StatusBadRequest, "InvalidArgument", "Invalid signing region in Authorization header.")
	case h.Get("X-Oss-Content-Sha256") != "UNSIGNED-PAYLOAD":
		return refuse(http.StatusBadRequest, "InvalidArgument", "Only UNSIGNED-PAYLOAD is supported.")
	}
	if subtle.ConstantTimeCompare([]byte(s.signature(c, a)), []byte(a.signature)) != 1 {
		return refuse(http.StatusForbidden, "SignatureDoesNotMatch",
			"The request signature we calculated does not match the signature you provided. Check your key and signing method.")
	}
	return nil
}

// signature computes what the request should be signed with.
func (s *Server) signature(c *call, a authorization) string {
	canonical := strings.Join([]string{
		c.r.Method,
		escape("/"+c.bucket+"/"+c.key, "/"),
		canonicalQuery(c.r.URL.RawQuery),
		canonicalHeaders(c.r.Header, a.additional),
		strings.Join(a.additional, ";"),
		c.r.Header.Get("X-Oss-Content-Sha256"),
	}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	scope := strings.Join([]string{a.date, a.region, a.product, "aliyun_v4_request"}, "/")
	text := "OSS4-HMAC-SHA256\n" + c.r.Header.Get("X-Oss-Date") + "\n" + scope + "\n" + hex.EncodeToString(sum[:])

	mac := []byte("aliyun_v4" + s.AccessKeySecret)
	for _, part := range []string{a.date, a.region, a.product, "aliyun_v4_request", text} {
		h := hmac.New(sha256.New, mac)
		_, _ = h.Write([]byte(part)) // a hash never fails
		mac = h.Sum(nil)
	}
	return hex.EncodeToString(mac)
}

// canonicalQuery sorts the parameters of a query by name.
func canonicalQuery(raw string) string {
	params := slices.DeleteFunc(strings.Split(raw, "&"), func(p string) bool { return p == "" })
	slices.SortFunc(params, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, "=")
		nameB, _, _ := strings.Cut(b, "=")
		return strings.Compare(nameA, nameB)
	})
	for i, p := range params {
		params[i] = strings.TrimSuffix(strings.ReplaceAll(p, "+", "%20"), "=")
	}
	return strings.Join(params, "&")
}

// canonicalHeaders returns a line for each signed header, and an empty one.
func canonicalHeaders(h http.Header, additional []string) string {
	var names []string
	for name := range h {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-oss-") || name == "content-type" || name == "content-md5" || slices.Contains(additional, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name + ":" + strings.TrimSpace(strings.Join(h.Values(name), ",")) + "\n")
	}
	return b.String()
}

// escape escapes all bytes but letters, digits, "-._~" and those of keep.
func escape(s, keep string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', strings.IndexByte("-._~"+keep, c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteString("%" + hexDigits[c>>4:c>>4+1] + hexDigits[c&15:c&15+1])
		}
	}
	return b.String()
}
