package allowlist

import (
	"net/url"
	"strings"
	"testing"
)

// check checks a URL as package fetch does.
func check(t testing.TB, l List, raw string) error {
	t.Helper()
	scheme, rest, _ := strings.Cut(raw, "://")
	switch scheme = strings.ToLower(scheme); scheme {
	case "s3", "gs":
		bucket, key, _ := strings.Cut(rest, "/")
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		return l.Object(scheme, bucket, key)
	case "file":
		path, err := url.PathUnescape(strings.TrimPrefix(rest, "localhost"))
		if err != nil {
			t.Fatal(err)
		}
		return l.File(path)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	return l.Web(u)
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ prefix, allowed, refused string }{
		{"https://example.com/deploy", // the list in the second field is allowed, that in the third is not
			`https://example.com/deploy https://example.com/deploy/ https://example.com/deploy/a/b.yml
			HTTPS://EXAMPLE.COM/deploy/a https://example.com:443/deploy/a https://example.com:/deploy/a https://example.com:0443/deploy/a
			https://user:password@example.com/deploy/a https://evil.net@example.com/deploy/a
			https://example.com/deploy?q=/../a https://example.com/deploy/a?u=https://evil.net/ https://example.com/deploy/a#/../..
			https://example.com/%64eploy/a https://example.com/deplo%79/a
			https://example.com/deploy/./a https://example.com/deploy/a/../b https://example.com/deploy/a/%2e%2E/b
			https://example.com/deploy//a https://example.com/deploy/a%2Fb https://example.com/deploy/a%252fb https://example.com/deploy/100%25
			https://example.com/deploy/.hidden https://example.com/deploy/a..b https://example.com/deploy/..a https://example.com/deploy/a;v=1
			https://example.com/deploy/größe/日本 https://example.com/deploy/a%20b https://example.com/deploy/a\b`,
			`https://example.com https://example.com/ https://example.com/deploy-evil https://example.com/deploy-evil/a https://example.com/deploy.evil/a
			https://example.com/Deploy/a https://example.com/deploy%2Fa https://example.com/deploy%252Fa https://example.com/deploy%5Ca https://example.com/deploy\a
			https://example.com/deploy;x=1/a https://example.com/deploy%3Fa https://example.com/deploy%23a https://example.com/deploy%00/a https://example.com/deploy%20/a
			https://example.com//deploy/a https://example.com/./deploy/a https://example.com/x/../deploy/a https://example.com/?/deploy/a https://example.com/#/deploy/a
			http://example.com/deploy/a http://example.com:443/deploy/a https://example.com:80/deploy/a https://example.com:8443/deploy/a
			https://example.com.evil.net/deploy/a https://example.comevil/deploy/a https://evilexample.com/deploy/a https://a.example.com/deploy/a https://example.com./deploy/a
			https://example.com@evil.net/deploy/a https://example.com:443@evil.net/deploy/a https://evil.net/example.com/deploy/a https://evil.net/https://example.com/deploy/a
			https://example.com\@evil.net/deploy/a https://evil.net\@example.com/deploy/a https://evil.net#@example.com/deploy/a https://evil.net?@example.com/deploy/a
			https://example.com%2f.evil.net/deploy/a https://example.com%00.evil.net/deploy/a https://example.com%2e/deploy/a
			https:/example.com/deploy/a https:example.com/deploy/a https:///example.com/deploy/a https:deploy/a
			https://example.com/deploy/.. https://example.com/deploy/../ https://example.com/deploy/../a https://example.com/deploy/a/../../b https://example.com/deploy/../deploy/a
			https://example.com/deploy/%2e%2e/a https://example.com/deploy/%2E./a https://example.com/deploy/.%2e/a https://example.com/deploy/%252e%252e/a https://example.com/deploy/%25252e%25252e/a
			https://example.com/deploy/%%32%65%%32%65/a https://example.com/deploy/..%2Fa https://example.com/deploy/a%2F..%2Fb https://example.com/deploy/a%2f..%2f..%2fb https://example.com/deploy/..%252Fa
			https://example.com/deploy/..\a https://example.com/deploy/a\..\..\b https://example.com/deploy/..%5Ca https://example.com/deploy/..%255ca https://example.com/deploy/%5C../a
			https://example.com/deploy/a//../../b https://example.com/deploy//../a https://example.com/deploy/./../a https://example.com/deploy/%20/../a
			https://example.com/deploy/a%2Fb/../../c https://example.com/deploy/..;/a https://example.com/deploy/..;x=1/a https://example.com/deploy/;x/../a https://example.com/deploy/..%3B/a
			https://example.com/deploy/..%3Fa https://example.com/deploy/..%23a https://example.com/deploy/..%20/a https://example.com/deploy/.../a
			https://example.com/deploy/..%00/a https://example.com/deploy/a%00b https://example.com/deploy/a%0d%0ab https://example.com/deploy/..%09/a https://example.com/deploy/a%7f https://example.com/deploy/a%2500b
			https://example.com/deploy/%c0%ae%c0%ae/a https://example.com/deploy/..%c0%afa https://example.com/deploy/%ff
			s3://example.com/deploy/a file:///deploy/a file://localhost/deploy/a`},
		{"HTTPS://Example.COM:443/deploy/", "https://example.com/deploy https://example.com/deploy/a", "https://example.com/deploy-evil https://example.com/"},
		{"https://example.com", "https://example.com https://example.com/ https://example.com/a/../b https://example.com//a https://example.com?a", "http://example.com/ https://example.com.evil.net/ https://example.com:444/ https://example.net/"},
		{"https://example.com/", "https://example.com https://example.com/a", "https://example.org/a"},
		{"http://example.com", "http://example.com:80/a http://example.com/a", "https://example.com/a http://example.com:443/a http://example.com:8080/a"},
		{"https://example.com:8443/a", "https://example.com:8443/a", "https://example.com/a https://example.com:443/a"},
		{"https://example.com./a", "https://example.com./a", "https://example.com/a https://example.com../a"},
		{"https://gitlab.example.com/api/v4/projects/group%2Fapp/packages", "https://gitlab.example.com/api/v4/projects/group%2fapp/packages/x", "https://gitlab.example.com/api/v4/projects/group/app/packages/x https://gitlab.example.com/api/v4/projects/group%252Fapp/packages/x"},
		{"https://example.com/a b;c(1)", "https://example.com/a%20b;c(1)/x", "https://example.com/a+b;c(1)/x https://example.com/a%20b%3Bc(1)/x https://example.com/a%20b;c https://example.com/a%20b"},
		{"https://example.com/größe", "https://example.com/gr%C3%B6%c3%9fe/a", "https://example.com/grosse/a"},
		{"https://bücher.example/a", "https://BÜCHER.example/a https://xn--bcher-kva.example/a https://b%C3%BCcher.example/a https://bücher。example/a", "https://bucher.example/a https://xn--bcher-kva.example.evil.net/a"},
		{"https://example.com/a", "https://ｅxample.com/a https://xn--example.com@example.com/a", "https://example.com／.evil.net/a https://example.com℀evil.net/a https://ехample.com/a"},
		{"https://[2001:DB8::1]/a", "https://[2001:db8:0:0::1]:443/a https://[2001:0db8::0001]/a", "https://[2001:db8::2]/a https://[2001:db8::1%25eth0]/a https://[::ffff:1.2.3.4]/a"},
		{"https://127.0.0.1", "https://127.0.0.1:443/", "https://127.1/ https://[::ffff:127.0.0.1]/ https://2130706433/ https://0x7f.0.0.1/ https://localhost/ https://127.0.0.1./"},
		{"http://[fe80::1%25eth0]:8080", "http://[FE80::1%25eth0]:8080/a", "http://[fe80::1]:8080/a http://[fe80::1%25eth1]:8080/a"},
		{"s3://bucket", "s3://bucket/a S3://bucket/a/b s3://bucket/a/../b s3://bucket//a", "s3://bucket-evil/a s3://bucket.evil/a s3://Bucket/a gs://bucket/a s3://bucket/../evil/a s3://bucket/%2e%2e/evil/a s3://bucket/a/..%2F..%2Fevil s3://evil@bucket/a s3://bucket@evil/a s3://bucket:1/a https://bucket/a s3://bucket/a%00b"},
		{"s3://bucket/deploy/", "s3://bucket/deploy s3://bucket/deploy/a s3://bucket/deplo%79/a s3://bucket/deploy/a//b s3://bucket/deploy/a/../b s3://bucket/deploy/a+b s3://bucket/deploy%2Fa", "s3://bucket/deploy-evil/a s3://bucket//deploy/a s3://bucket/deploy/../a s3://bucket/deploy/a//../../b s3://bucket/deploy/%252e%252e/a s3://bucket/./deploy/a s3://bucket/x/../deploy/a s3://bucket/DEPLOY/a"},
		{"s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:deploy/a", "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:deploy/a/b", "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:other/a/b"},
		{"gs://bucket/a%20b", "gs://bucket/a b/c gs://bucket/a%20b/c", "gs://bucket/a/c s3://bucket/a b/c"},
		{"file:///srv/deploy", "file:///srv/deploy file:///srv/deploy/a file://localhost/srv/deploy/a file:///srv//deploy/./a file:////srv/deploy/a file:///srv/deploy/%61", "file:///srv/deploy-evil/a file:///srv/deploy/../a file:///srv/deploy/a/../b file:///srv/deploy/..%2Fa file:///srv/deploy%2F..%2Fa file:///srv/x/../deploy/a file:///Srv/deploy/a https://localhost/srv/deploy/a"},
		{"file:/srv", "file:///srv/a", "file:///srvevil/a"},
		{"file://localhost/srv/./deploy//", "file:///srv/deploy/a", "file:///srv/a"},
		{"file:///", "file:///etc/passwd", "https://example.com/ file:///a/../b"},
	} {
		l, err := Parse([]string{"https://other.example/x", test.prefix})
		if err != nil {
			t.Errorf("%s: %v", test.prefix, err)
			continue
		}
		for _, raw := range fields(test.allowed) {
			if err := check(t, l, raw); err != nil {
				t.Errorf("%s under %s: %v", raw, test.prefix, err)
			}
		}
		for _, raw := range fields(test.refused) {
			if check(t, l, raw) == nil {
				t.Errorf("%s is allowed under %s", raw, test.prefix)
			}
		}
	}
}

// fields splits a list of URLs, which may contain single spaces.
func fields(list string) []string {
	var urls []string
	for _, word := range strings.Fields(list) {
		if n := len(urls); n > 0 && !strings.Contains(word, ":") {
			urls[n-1] += " " + word
		} else {
			urls = append(urls, word)
		}
	}
	return urls
}

func TestInvalidPrefix(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ prefixes, want string }{
		{" example.com /srv/deploy *", "expected https://host/path"},
		{"ftp://example.com HTTPSX://a c:\\deploy", "unknown scheme"},
		{"https:// https:///a https:example.com https:/example.com/a", "names no host"},
		{"https://user:s3cret@example.com https://user@example.com https://@example.com", "no user"},
		{"https://example.com/a?token=s3cret https://example.com/a? https://example.com/a# s3://bucket/a?b file:///a#b", "no query"},
		{"https://example.com/a//b https://example.com// https://example.com/a/../b https://example.com/a/%2e%2e/b https://example.com/./a https://example.com/a/..%2fb https://example.com/a%00 https://example.com/%ff s3://bucket//a s3://bucket/a/../b s3://bucket/a//", "empty segment"},
		{"https://example.com:99999/ https://example.com:x/ https://exa_mple.com\\a https://%zz/ https://example.com/%zz", ""},
		{"https://example.com／evil/", "not a valid name"},
		{"s3:// s3:///key s3:bucket/key s3:/bucket/key s3://user@bucket/key gs://a%2fb/c s3://buck\tet/a", "://bucket"},
		{"s3://bucket/100% file:///100%", "invalid URL escape"},
		{"file:// file:a file://host/a file://LOCALHOST/a file://localhostevil/a file:///a%00", "absolute path"},
		{"file:///a/../b", "has .. as a segment"},
	} {
		for raw := range strings.SplitSeq(test.prefixes, " ") {
			_, err := Parse([]string{"https://example.com", raw})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.ContainsAny(err.Error(), "\n\t") {
				t.Errorf("%q: error %v, want one with %q", raw, err, test.want)
			} else if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%q: the error has the secret: %v", raw, err)
			}
		}
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	l, err := Parse([]string{"https://example.com/deploy", "s3://bucket"})
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"https://evil.net/a":             "refused by -allow: it is not under https://example.com/deploy, s3://bucket",
		"https://example.com/deploy/../": "refused by -allow https://example.com/deploy, s3://bucket: some servers would read its path as one that leads out of there",
		"file:///srv/../a":               "refused by -allow https://example.com/deploy, s3://bucket: its path has .. as a segment",
	} {
		if err := check(t, l, raw); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", raw, err, want)
		}
	}
	var all List
	for _, raw := range []string{"https://evil.net/../%00", "s3://b/../../a", "file:///a/../b"} {
		if err := check(t, all, raw); err != nil {
			t.Errorf("%s: %v, although there is no list", raw, err)
		}
	}
}
