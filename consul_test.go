package stretcher

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParseConsulEvents(t *testing.T) {
	// Recorded from consul watch 1.22, with the names of the nodes replaced.
	const in = `[{"ID":"0f3c1ad4-bd3f-1e5b-a3c5-6d3a1d7c2f3e","Name":"deploy","Payload":"czM6Ly9iL29sZC55bWw=","NodeFilter":"","ServiceFilter":"","TagFilter":"","Version":1,"LTime":2},` +
		`{"ID":"a8d5f5f0-3d6b-9d5c-5b3f-7f1b2a2f9f10","Name":"deploy","Payload":"czM6Ly9iL25ldy55bWw=","NodeFilter":"","ServiceFilter":"","TagFilter":"","Version":1,"LTime":3}]` + "\n"
	got, err := ParseConsulEvents(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	want := &ConsulEvent{ID: "a8d5f5f0-3d6b-9d5c-5b3f-7f1b2a2f9f10", Name: "deploy", Payload: []byte("s3://b/new.yml"), LTime: 3}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, expected %+v", got, want)
	}

	got, err = ParseConsulEvents(strings.NewReader(`[{"ID":"x","Payload":null}]`))
	if err != nil || got.Payload != nil {
		t.Errorf("without a payload: got %+v, %v", got, err)
	}
	for _, in := range []string{"[]", "null", "[]\n[]"} {
		if got, err := ParseConsulEvents(strings.NewReader(in)); got != nil || !errors.Is(err, ErrNoEvents) {
			t.Errorf("%s: got %v, %v, expected ErrNoEvents", in, got, err)
		}
	}
	for _, in := range []string{"", "{}", "[{]", "[1]", `[{"LTime":"three"}]`, `[{"Payload":"?"}]`, "s3://b/m.yml"} {
		if got, err := ParseConsulEvents(strings.NewReader(in)); err == nil || errors.Is(err, ErrNoEvents) {
			t.Errorf("%s: got %v, %v, expected an error", in, got, err)
		}
	}
}

func FuzzParseConsulEvents(f *testing.F) {
	for _, seed := range []string{"[]", "null", `[{"ID":"x","Name":"n","Payload":"YQ==","LTime":1}]`, "[{},{}]", "[[]]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := ParseConsulEvents(strings.NewReader(in))
		if (got == nil) == (err == nil) {
			t.Fatalf("got %v and %v", got, err)
		}
		if err != nil {
			return
		}
		data, err := json.Marshal(ConsulEvents{{}, *got})
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConsulEvents(strings.NewReader(string(data)))
		if err != nil || again.ID != got.ID || string(again.Payload) != string(got.Payload) || again.LTime != got.LTime {
			t.Errorf("%+v came back as %+v, %v", got, again, err)
		}
	})
}
