package oss

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Signatures of version 4
// (https://www.alibabacloud.com/help/en/oss/developer-reference/recommend-to-use-signature-version-4).
// Bodies are not part of them: what is stored is protected by the checksums that
// go with it.
const (
	algorithm       = "OSS4-HMAC-SHA256"
	unsignedPayload = "UNSIGNED-PAYLOAD"
	dateTimeFormat  = "20060102T150405Z"
	dateFormat      = "20060102"
)

// sign sets the headers that prove the request to come from the owner of keys.
// resource is "/bucket/key" unescaped, whatever the URL's form. It replaces what
// an earlier call has set.
func sign(req *http.Request, resource, region string, keys accessKeys, now time.Time) {
	now = now.UTC()
	dateTime, date := now.Format(dateTimeFormat), now.Format(dateFormat)
	req.Header.Set("X-Oss-Date", dateTime)
	req.Header.Set("X-Oss-Content-Sha256", unsignedPayload)
	if keys.token != "" {
		req.Header.Set("X-Oss-Security-Token", keys.token)
	}
	sum := sha256.Sum256([]byte(canonicalRequest(req, resource)))
	scope := date + "/" + region + "/oss/aliyun_v4_request"
	text := strings.Join([]string{algorithm, dateTime, scope, hex.EncodeToString(sum[:])}, "\n")

	key := []byte("aliyun_v4" + keys.secret)
	for _, part := range []string{date, region, "oss", "aliyun_v4_request"} {
		key = hmacSHA256(key, part)
	}
	req.Header.Set("Authorization", algorithm+" Credential="+keys.id+"/"+scope+",Signature="+hex.EncodeToString(hmacSHA256(key, text)))
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text)) // a hash never fails
	return h.Sum(nil)
}

// canonicalRequest returns the one text that a request has for both sides. The
// query comes from encodeQuery.
func canonicalRequest(req *http.Request, resource string) string {
	var headers []string
	for name := range req.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-oss-") || name == "content-type" || name == "content-md5" {
			headers = append(headers, name)
		}
	}
	slices.Sort(headers)

	var b strings.Builder
	b.WriteString(req.Method + "\n" + escapePath(resource) + "\n" + req.URL.RawQuery + "\n")
	for _, name := range headers {
		b.WriteString(name + ":" + strings.TrimSpace(strings.Join(req.Header.Values(name), ",")) + "\n")
	}
	// The empty line is of further headers that could be signed.
	b.WriteString("\n\n" + req.Header.Get("X-Oss-Content-Sha256"))
	return b.String()
}

// escape escapes all but letters, digits and "-._~".
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// escapePath is escape that leaves slashes.
func escapePath(s string) string { return strings.ReplaceAll(escape(s), "%2F", "/") }

// encodeQuery encodes parameters in the form and order in which they are signed:
// those without a value have no equals sign.
func encodeQuery(query url.Values) string {
	params := make(map[string]string, len(query)) // by escaped name
	for name := range query {
		p := escape(name)
		if v := query.Get(name); v != "" {
			params[p] = p + "=" + escape(v)
		} else {
			params[p] = p
		}
	}
	out := make([]string, 0, len(params))
	for _, name := range slices.Sorted(maps.Keys(params)) {
		out = append(out, params[name])
	}
	return strings.Join(out, "&")
}
