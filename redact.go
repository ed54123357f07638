package stretcher

import (
	"net/url"
	"regexp"
	"strings"
)

const redacted = "REDACTED"

// urlPattern finds the URLs in a line of log. A backslash ends one, since it
// stands before the closing quote where a URL is quoted twice.
var urlPattern = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"<>\\` + "`" + `]+`)

// secretParameter matches the names of query parameters whose values let
// their reader in: signatures, tokens, keys and the like, those of presigned
// URLs of AWS (X-Amz-Signature, -Credential, -Security-Token; Signature and
// AWSAccessKeyId), GCS (X-Goog-Signature, -Credential; GoogleAccessId) and
// Azure (sig) among them.
var secretParameter = regexp.MustCompile(`(?i)^(sig|hmac|key|auth|bearer|sas|pwd|pw|pass|code|jwt)$|signature|token|secret|passw|passphrase|credential|access.?key|api.?key|private.?key|accessid|authorization|session`)

// redact returns s with the passwords, signatures and tokens of the URLs in
// it replaced.
func redact(s string) string { return redactIn(s, maxNested) }

func redactIn(s string, depth int) string {
	if !strings.Contains(s, "://") {
		return s
	}
	return urlPattern.ReplaceAllStringFunc(s, func(match string) string {
		u := strings.TrimRight(match, ",.:;)") // of the sentence around it
		return redactNested(u, depth) + match[len(u):]
	})
}

// maxNested is how deep URLs are looked at that are in one another. Deeper ones
// would cost much time, and nobody means them to be read.
const maxNested = 8

// redactURL is redact for what is one URL as a whole.
func redactURL(u string) string { return redactNested(u, maxNested) }

func redactNested(u string, depth int) string {
	if depth == 0 {
		return redacted
	}
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return u
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	if _, port, ok := strings.Cut(authority, ":"); ok && !strings.Contains(authority, "@") && (port == "" || strings.Trim(port, "0123456789") != "") && !strings.HasPrefix(authority, "[") {
		// What follows the colon is no port: a password with a slash in it,
		// or another URL.
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			end = at + 1
			if i := strings.IndexAny(rest[end:], "/?#"); i >= 0 {
				end += i
			} else {
				end = len(rest)
			}
			authority = rest[:end]
		}
	}
	rest = rest[end:]
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		user, password, hasPassword := strings.Cut(authority[:at], ":")
		if user != "" && password == "" && strings.HasPrefix(strings.ToLower(scheme), "http") {
			user = redacted // a token in the place of the user
		}
		if hasPassword {
			user += ":" + redacted
		}
		authority = user + authority[at:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i+1] + redactQuery(rest[i+1:])
	}
	return scheme + "://" + authority + redactIn(rest, depth-1)
}

func redactQuery(query string) string {
	var b strings.Builder
	for query != "" {
		pair, sep := query, ""
		if i := strings.IndexAny(query, "&;#"); i >= 0 {
			pair, sep = query[:i], query[i:i+1]
		}
		query = query[len(pair)+len(sep):]
		if name, _, ok := strings.Cut(pair, "="); ok {
			plain, err := url.QueryUnescape(name)
			if err != nil {
				plain = name
			}
			if secretParameter.MatchString(plain) {
				pair = name + "=" + redacted
			}
		}
		b.WriteString(pair + sep)
	}
	return b.String()
}
