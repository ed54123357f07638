package destcheck

import "testing"

func TestMayMove(t *testing.T) {
	t.Parallel()
	env := []string{"APP=/srv/other", "APP=/srv/app", "STRETCHER_DEST=/srv/app", "ROOT=/srv"}
	for command, want := range map[string]bool{
		"rm -rf /srv/app":                        true,
		"rm -rf '/srv/app/'":                     true,
		"mv /srv/app{,.old}":                     true,
		"cd /srv && mv app app.old":              true,
		`mv "$STRETCHER_DEST" /srv/old`:          true,
		"mv ${APP} /old":                         true,
		"rm -r $ROOT/app":                        true,
		"test ! -d /srv/app || mv /srv/app /b":   true,
		"":                                       false,
		"systemctl stop app":                     false,
		"touch /srv/app.ran":                     false,
		"rm -rf /srv/application /srv/my-app":    false,
		"rm -rf $NOTHING/app":                    false,
		"echo $(date) > /srv/log":                false,
		"/usr/local/bin/prepare-release":         true,
		"./prepare.sh && echo ok":                true,
		"sudo /opt/app/prepare":                  true,
		"sh prepare":                             true,
		"/bin/sh prepare":                        true,
		". /etc/app.conf; systemctl stop app":    true,
		"$HOME/prepare":                          true,
		"echo x; python3 prepare.py":             true,
		"/bin/systemctl stop app":                false,
		"/etc/init.d/app stop":                   false,
		"sudo systemctl stop app":                false,
		"touch /var/run/stopped":                 false,
		"echo stop > /tmp/x; sleep 1 && true":    false,
		"rm -rf /srv/приложение-app /srv/appé x": false,
	} {
		if got := MayMove(command, env, "/srv/app"); got != want {
			t.Errorf("%s: %t", command, got)
		}
	}
	for dest, command := range map[string]string{
		"/srv/a*b c$d": "rm -r '/srv/a*b c$d'",
		"/srv/a\xffb":  "rm -r /srv/a\xffb",
		"/app":         "mv /app /app.old",
	} {
		if !MayMove(command, nil, dest) {
			t.Errorf("%q: false", command)
		}
	}
}
