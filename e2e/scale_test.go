package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A rollout begins with the hosts of a tag, as docs/scale.md says: the others do not
// deploy. An event for a datacenter reaches it.
func TestCanaries(t *testing.T) {
	t.Parallel()
	first := startConsul(t, nil)
	canary, other := newHost(t), newHost(t)
	agents := map[*host]*consul{canary: first, other: startConsul(t, first)}
	watches := map[*host]*server{}
	for h, c := range agents {
		tag := "stable"
		if h == canary {
			tag = "canary"
		}
		req, err := http.NewRequest(http.MethodPut, "http://"+c.http+"/v1/agent/service/register", strings.NewReader(fmt.Sprintf(`{"Name": "hello", "Tags": [%q]}`, tag)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		watches[h] = c.watch(h)
		watches[h].waitForOutput(noEvent, 1)
	}
	manifest := func(name string) string {
		t.Helper()
		path := canary.path(name + ".yml")
		write(t, path, []byte("commands:\n  pre: [echo "+name+"]\n"))
		return fileURL(path)
	}
	output(t, canary.command(tool(t, "consul"), "event", "-http-addr", first.http, "-name", "deploy", "-service", "hello", "-tag", "canary", manifest("first")))
	watches[canary].waitForOutput("invoking command: echo first", 1)
	output(t, canary.command(program(t, "curl"), "-fsS", "-X", "PUT", "--data-binary", manifest("second"), "http://"+first.http+"/v1/event/fire/deploy?dc=dc1"))
	for _, watch := range watches {
		watch.waitForOutput("invoking command: echo second", 1)
	}
	if log := watches[other].output(); strings.Contains(log, "echo first") {
		t.Errorf("the event for the canaries was deployed by another host:\n%s", log)
	}
}
