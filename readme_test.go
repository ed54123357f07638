package stretcher_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/fujiwara/stretcher"
)

// Every manifest in the README can be parsed.
func TestReadmeManifests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("APP_ROOT", "/srv")
	t.Setenv("REGION", "")
	whole := 0
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(src:.*?)^```$").FindAllSubmatch(readme, -1) {
		whole++
		m, err := stretcher.ParseManifest(block[1])
		if err != nil {
			t.Errorf("%v:\n%s", err, block[1])
		} else if m.Dest != "/srv/app" {
			t.Errorf("dest is %q in:\n%s", m.Dest, block[1])
		}
	}
	if whole == 0 {
		t.Error("the README has no manifest")
	}
}
