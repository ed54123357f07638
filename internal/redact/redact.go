// Package redact removes secrets from what is logged, so that a log can be posted
// to a chat: passwords and tokens in the user part of URLs, the values of query
// parameters whose names look like signatures, tokens, keys or credentials, and
// queries without names. Elsewhere it finds only the values of Hide. It also escapes
// control characters.
package redact

import (
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// placeholder replaces each secret.
const placeholder = "REDACTED"

// shortSecret is the length in bytes from which on a secret is recognized by itself,
// and not only by its name or as a word of its own.
const shortSecret = 8

// jsonAmpersand is a & in JSON that is safe in HTML, as json.Marshal writes it.
const jsonAmpersand = `\u0026`

// secretParameter matches the names of query parameters whose values grant
// access: signatures, tokens, keys and the like. It includes the parameters of
// presigned URLs of AWS (X-Amz-Signature, -Credential, -Security-Token;
// Signature and AWSAccessKeyId), GCS (X-Goog-Signature, -Credential;
// GoogleAccessId) and Azure (sig). It is compiled when it is needed, to start faster.
var secretParameter = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^(sig|hmac|key|auth|bearer|sas|pwd|pw|pass|code|jwt)$|signature|token|secret|passw|passphrase|credential|access.?key|api.?key|private.?key|accessid|authorization|session`)
})

// Text returns s with the secrets of all URLs in it replaced by REDACTED.
func Text(s string) string { return within(withoutHidden(s), maxNested) }

// within redacts the URLs in s, and those nested in them up to depth.
func within(s string, depth int) string {
	var b strings.Builder
	for {
		before, u, after := cutURL(s)
		if u == "" {
			return b.String() + s
		}
		b.WriteString(before)
		b.WriteString(nested(u, depth))
		s = after
	}
}

// cutURL finds the first URL in a line of log: a scheme, "://", and what follows up to
// a space or another character that cannot be part of a URL. A backslash ends it,
// because a URL that was quoted twice is followed by one, before the closing quote,
// unless it is that of jsonAmpersand. Punctuation of the sentence around it is left out.
// If there is no URL, u is "".
func cutURL(s string) (before, u, after string) {
	for from := 0; ; {
		colon := strings.Index(s[from:], "://")
		if colon < 0 {
			return s, "", ""
		}
		colon += from
		start := colon
		for start > 0 && isScheme(s[start-1]) {
			start--
		}
		for start < colon && !isLetter(s[start]) {
			start++
		}
		from = colon + len("://")
		end := urlEnd(s, from)
		if start < colon && end > from {
			u = strings.TrimRight(s[start:end], ",.:;)")
			return s[:start], u, s[start+len(u):]
		}
	}
}

// urlEnd returns where a URL that extends at least to from ends.
func urlEnd(s string, from int) int {
	for {
		i := strings.IndexAny(s[from:], "\t\n\f\r \"<>\\`")
		if i < 0 {
			return len(s)
		}
		from += i
		if !strings.HasPrefix(s[from:], jsonAmpersand) {
			return from
		}
		from += len(jsonAmpersand)
	}
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// isScheme reports whether c may be part of a scheme (RFC 3986, section 3.1).
func isScheme(c byte) bool {
	return isLetter(c) || '0' <= c && c <= '9' || c == '+' || c == '.' || c == '-'
}

// maxNested is how many levels of URLs within URLs are examined; the rest is
// replaced as a whole. Without a limit, the time would grow with the square of
// the length.
const maxNested = 8

// URL is Text for a string that is a single URL, or was meant to be one and lacks its
// scheme. It finds secrets also where the URL contains spaces, quotes and other
// characters that end one in a text.
func URL(u string) string {
	u = withoutHidden(u)
	if i := strings.IndexAny(u, ":/?#@"); i >= 0 && strings.HasPrefix(u[i:], "://") {
		return nested(u, maxNested)
	}
	before := ""
	for _, prefix := range []string{"//", "file:"} { // file:/path is a URL (RFC 8089, section 2)
		if len(u) >= len(prefix) && strings.EqualFold(u[:len(prefix)], prefix) {
			before = u[:len(prefix)]
		}
	}
	const scheme = "x://"
	return before + strings.TrimPrefix(nested(scheme+u[len(before):], maxNested), scheme)
}

// Error returns err with a text that can be shown: redacted and Printable, and so
// a single line. It still wraps err.
func Error(err error) error { return redactedError{err, Printable(Text(err.Error()))} }

type redactedError struct {
	error
	text string // of now, because the values of Hide are forgotten later
}

func (e redactedError) Error() string { return e.text }

func (e redactedError) Unwrap() error { return e.error }

// nested redacts one URL, and those nested in it up to depth.
func nested(u string, depth int) string {
	if depth == 0 {
		return placeholder
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
		// What follows the colon is not a port: it is a password that contains
		// a slash, or another URL.
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
			user = placeholder // a token given as the user
		}
		if hasPassword {
			user += ":" + placeholder
		}
		authority = user + authority[at:]
	}
	rest = within(query(rest, hasSecretName), depth-1)
	// After that, because a part of a nested URL may look like one of these: the end of
	// its password with its host.
	rest = query(rest, isUnnamed)
	return scheme + "://" + authority + rest
}

// hasSecretName returns what is left of a parameter whose name says that its value is a
// secret.
func hasSecretName(pair string, _ bool) (string, bool) {
	name, _, named := strings.Cut(pair, "=")
	plain, err := url.QueryUnescape(name)
	if err != nil {
		plain = name
	}
	return name + "=" + placeholder, named && secretParameter().MatchString(plain)
}

// isUnnamed returns what is left of a parameter of the query that is only a name or only
// a value, and long. It may be a token, also one in base64.
func isUnnamed(pair string, fragment bool) (string, bool) {
	name, value, _ := strings.Cut(pair, "=")
	unnamed := name == "" || strings.Trim(value, "=") == ""
	return placeholder, unnamed && !fragment && len(pair) >= shortSecret && !strings.Contains(pair, "://")
}

// query replaces the secret parameters in the query and the fragment of a URL. secret
// returns what replaces a parameter, and whether it is one.
func query(rest string, secret func(pair string, fragment bool) (string, bool)) string {
	i := strings.IndexAny(rest, "?#")
	if i < 0 {
		return rest
	}
	query, fragment := rest[i+1:], rest[i] == '#'
	var b strings.Builder
	b.WriteString(rest[:i+1])
	for query != "" {
		pair, sep := query, ""
		if i := strings.IndexAny(query, "&;#"); i >= 0 {
			pair, sep = query[:i], query[i:i+1]
		}
		if i := strings.Index(pair, jsonAmpersand); i >= 0 {
			pair, sep = pair[:i], jsonAmpersand
		}
		query = query[len(pair)+len(sep):]
		if left, ok := secret(pair, fragment); ok {
			pair = left
		}
		fragment = fragment || sep == "#"
		b.WriteString(pair + sep)
	}
	return b.String()
}
