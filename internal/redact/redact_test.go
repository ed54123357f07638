package redact

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"":                                          "",
		"no URL: a:b@c?token=x":                     "no URL: a:b@c?token=x",
		"https://example.com/a?b=c#d":               "https://example.com/a?b=c#d",
		"s3://bucket/key with a blank":              "s3://bucket/key with a blank",
		"http://[::1]:8080/a":                       "http://[::1]:8080/a",
		"http://h:8080/a@b:c":                       "http://h:8080/a@b:c",
		"file:///srv/a:b@c/d":                       "file:///srv/a:b@c/d",
		"https://user:pass@h/":                      "https://user:REDACTED@h/",
		"https://user:@h/":                          "https://REDACTED:REDACTED@h/",
		"ftp://user:@h/":                            "ftp://user:REDACTED@h/",
		"https://:pass@h/":                          "https://:REDACTED@h/",
		"https://token@h/":                          "https://REDACTED@h/",
		"HTTPS://user:pass@h/":                      "HTTPS://user:REDACTED@h/",
		"ssh://deploy@h/":                           "ssh://deploy@h/",
		"s3://key:pass@bucket/k":                    "s3://key:REDACTED@bucket/k",
		"http://user:p@ss@h/":                       "http://user:REDACTED@h/",
		"http://user:p:ss@[::1]:80/a":               "http://user:REDACTED@[::1]:80/a",
		"http://user:pa/ss@h/a":                     "http://user:REDACTED@h/a",
		"http://user:pa?ss@h":                       "http://user:REDACTED@h",
		"http://user:%70ass@h?x#y":                  "http://user:REDACTED@h?x#y",
		"git+https://u:p@h/":                        "git+https://u:REDACTED@h/",
		"a http://u:p@h/ and http://v:q@i":          "a http://u:REDACTED@h/ and http://v:REDACTED@i",
		`Get "http://u:p@h/?sig=x": EOF`:            `Get "http://u:REDACTED@h/?sig=REDACTED": EOF`,
		`"\"http://h/?sig=x\""`:                     `"\"http://h/?sig=REDACTED\""`,
		"fetch http://h/?sig=x: refused":            "fetch http://h/?sig=REDACTED: refused",
		"(http://h/?sig=x), http://h/.":             "(http://h/?sig=REDACTED), http://h/.",
		"<http://h/?sig=x>":                         "<http://h/?sig=REDACTED>",
		"http://h/?a=1&sig=x&b=2#c":                 "http://h/?a=1&sig=REDACTED&b=2#c",
		"http://h/?a=1;sig=x;b=2":                   "http://h/?a=1;sig=REDACTED;b=2",
		"http://h/?sig=":                            "http://h/?sig=REDACTED",
		"http://h/?sig=x=y==":                       "http://h/?sig=REDACTED",
		"http://h/?sig":                             "http://h/?sig",
		"http://h/?a=b&0123abcd&c#0123abcd":         "http://h/?a=b&REDACTED&c#0123abcd",
		"http://h/#0123abcd&01234567":               "http://h/#0123abcd&01234567",
		"http://h/?http://u:p@h/?0123abcd":          "http://h/?http://u:REDACTED@h/?REDACTED",
		"http://h/?MDEyMzQ1Njc=&MDEyMzQ1Ng==&a=":    "http://h/?REDACTED&REDACTED&a=",
		"http://h/?n=http://i&token=x@S3CRET":       "http://h/?n=http://i&token=REDACTED",
		"http://h/?=0123456789&a=1&=012345":         "http://h/?REDACTED&a=1&=012345",
		"http://h/?n=http://u:p&ss@example.com:80/": "http://h/?n=http://u:REDACTED@example.com:80/",
		`{"u":"http://h/?a=1\u0026sig=x\u0026b=2"}`: `{"u":"http://h/?a=1\u0026sig=REDACTED\u0026b=2"}`,
		`"http://h/\u0026\u0027,\n"`:                `"http://h/\u0026\u0027,\n"`,
		"http://h/?%73ig=x":                         "http://h/?%73ig=REDACTED",
		"http://h/#access_token=x":                  "http://h/#access_token=REDACTED",
		"http://h/?a=1&pass=x&hmac=y&passphrase=z":  "http://h/?a=1&pass=REDACTED&hmac=REDACTED&passphrase=REDACTED",
		"http://h/?u=http://v:p@i/http://w:q@j/":    "http://h/?u=http://v:REDACTED@i/http://w:REDACTED@j/",
		// AWS, presigned, versions 4 and 2
		"https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F2026&X-Amz-Date=20261122T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature=s": "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=REDACTED&X-Amz-Date=20261122T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=REDACTED&X-Amz-Signature=REDACTED",
		"https://b.s3.amazonaws.com/k?AWSAccessKeyId=AK&Expires=1&Signature=s": "https://b.s3.amazonaws.com/k?AWSAccessKeyId=REDACTED&Expires=1&Signature=REDACTED",
		// GCS, versions 4 and 2
		"https://storage.googleapis.com/b/k?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=c&X-Goog-Expires=60&X-Goog-Signature=s": "https://storage.googleapis.com/b/k?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=REDACTED&X-Goog-Expires=60&X-Goog-Signature=REDACTED",
		"https://storage.googleapis.com/b/k?GoogleAccessId=a&Expires=1&Signature=s":                                                     "https://storage.googleapis.com/b/k?GoogleAccessId=REDACTED&Expires=1&Signature=REDACTED",
		// Azure
		"https://a.blob.core.windows.net/c/b?sv=2024-11-04&se=2026-11-22&sr=b&sp=r&sig=s%3D": "https://a.blob.core.windows.net/c/b?sv=2024-11-04&se=2026-11-22&sr=b&sp=r&sig=REDACTED",
		// GitLab, Artifactory and the like
		"https://h/a?private_token=x&job_token=y&api_key=z&apikey=z&access_token=a&auth=b&password=c&client_secret=d": "https://h/a?private_token=REDACTED&job_token=REDACTED&api_key=REDACTED&apikey=REDACTED&access_token=REDACTED&auth=REDACTED&password=REDACTED&client_secret=REDACTED",
		// parameters that are not secret
		"https://h/a?version=1&keyword=b&design=c&author=d&monkey=e": "https://h/a?version=1&keyword=b&design=c&author=d&monkey=e",
	} {
		if got := Text(in); got != want {
			t.Errorf("%.500s:\ngot      %.500s\nexpected %.500s", in, got, want)
		}
		if got := Text(Text(in)); got != want {
			t.Errorf("%.500s: twice it is %.500s", in, got)
		}
	}
}

// URL takes the whole string for one URL, whatever characters it contains.
func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "",
		"no URL":                          "no URL",
		`http://u:SEC"RET <x>@h/`:         "http://u:REDACTED@h/",
		`https://h/a b?token="x y"&c=d e`: `https://h/a b?token=REDACTED&c=d e`,
		// Without a scheme it is not a URL, but was meant to be one.
		"u:SECRET@h/app.yml?token=SECRET":  "u:REDACTED@h/app.yml?token=REDACTED",
		"//u:SECRET@h/app.yml":             "//u:REDACTED@h/app.yml",
		"u:SECRET@h/?next=http://h/":       "u:REDACTED@h/?next=http://h/",
		"http:/u:SECRET@h/":                "http:REDACTED@h/",
		"h/?next=http://u:SECRET@h/":       "h/?next=http://u:REDACTED@h/",
		"file:/srv/a:b@c.yml?token=SECRET": "file:/srv/a:b@c.yml?token=REDACTED",
		"/srv/a:b@c.yml":                   "/srv/a:b@c.yml",
		"/srv/app.yml?token=SECRET":        "/srv/app.yml?token=REDACTED",
		"/srv/app.yml?the-SECRET":          "/srv/app.yml?REDACTED",
		"git@example.com:app.yml":          "git@example.com:app.yml",
	} {
		if got := URL(in); got != want {
			t.Errorf("%s:\ngot      %s\nexpected %s", in, got, want)
		}
	}
}

// URLs nested in each other are examined to a limited depth. Without the limit,
// 56 KB of them took 5 s.
func TestRedactNested(t *testing.T) {
	if got := Text(strings.Repeat("http://", 8000) + "h/?token=SECRET"); !strings.HasSuffix(got, "/REDACTED") {
		t.Errorf("got %.500s", got)
	}
}

func TestError(t *testing.T) {
	err := Error(fmt.Errorf("get https://u:p@h/: %w", fs.ErrNotExist))
	if want := "get https://u:REDACTED@h/: file does not exist"; err.Error() != want {
		t.Errorf("got %q, expected %q", err.Error(), want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("it does not wrap the error")
	}
}

// The URLs in a text are those that a regular expression finds.
func FuzzCutURL(f *testing.F) {
	for _, s := range []string{"http://h/", "a b://c d", "1-a.b+c://x", "://a://b", "a://://b", "http:// x://y).", `"x://\u0026\u0027"`, "\xff://a", "é://b\xff c://d", "a://.", "@://b", "[a://b", "`a://b`c://d"} {
		f.Add(s)
	}
	pattern := regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s"<>\\` + "`" + `]|\\u0026)+`)
	f.Fuzz(func(t *testing.T, s string) {
		whole := s
		for _, match := range pattern.FindAllString(s, -1) {
			want := strings.TrimRight(match, ",.:;)")
			before, u, after := cutURL(s)
			if u != want || before+u+after != s {
				t.Fatalf("%q: got %q, %q, %q, want %q", whole, before, u, after, want)
			}
			s = after
		}
		if before, u, after := cutURL(s); u != "" || before != s || after != "" {
			t.Errorf("%q: got %q, %q, %q, want none", whole, before, u, after)
		}
	})
}

// FuzzRedact plants a secret in a URL, and the URL in a line of log.
func FuzzRedact(f *testing.F) {
	f.Add("user", "pass", "/a", "X-Amz-Signature", "sig", "frag")
	f.Add("", ":@/?#&='\"%", "/a@b:c/d", "token", "a&b;c#d'e", "access_token=x")
	f.Add("a", "1", "/http://h/", "sig", "http://u:p@h/", "")
	f.Add("", "@/?\x00#\"='&", "@A/;acbd", "\x05", "a", "")
	const secret = "S3CRET"
	f.Fuzz(func(t *testing.T, user, password, path, name, value, fragment string) {
		for _, s := range []string{user, path, name, fragment} {
			if strings.Contains(s, secret) {
				t.Skip("what is public holds the secret")
			}
		}
		password, value = password+secret+password, value+secret+value
		query := url.Values{"first": {"1"}, name: {"2"}, "token": {value}, "x-goog-signature": {value}, "last": {"3"}}
		u := &url.URL{Scheme: "https", User: url.UserPassword(user, password), Host: "example.com:80", Path: "/" + path, RawQuery: query.Encode(), Fragment: fragment}
		for _, full := range []string{
			u.String(),
			// Characters that are allowed there are not escaped, as people write URLs.
			"https://u:" + raw(password) + "@example.com/?sig=" + raw(value) + "&a=b",
			"s3://u:" + raw(password) + "@bucket/" + u.EscapedPath() + "?secret=" + raw(value),
			"https://example.com/?" + raw(value) + secret,
			"https://example.com/?a\\u0026sig=" + raw(value) + "\\u0026b=c",
		} {
			for _, line := range []string{full, "fetch " + full + ": refused", `Get "` + full + `": EOF`, "('" + full + "')", "https://h/?next=" + full} {
				if got := Text(line); strings.Contains(got, secret) {
					t.Errorf("%s\nbecomes %s", line, got)
				}
			}
			_, noScheme, _ := strings.Cut(full, "://")
			for _, whole := range []string{full, noScheme, "//" + noScheme} {
				if got := URL(whole); strings.Contains(got, secret) {
					t.Errorf("%s\nbecomes %s", whole, got)
				}
			}
		}
	})
}

// raw removes from s the characters that have to be escaped in a password or a
// query.
func raw(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-._~!$'()*+,:%", r)) {
			return r
		}
		return -1
	}, s)
}
