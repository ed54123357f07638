package eventinput

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fujiwara/stretcher/internal/redact"
)

// ListError says in the words of JSON what is wrong with a list of Consul events
// that encoding/json could not decode.
func ListError(err error) error {
	var wrongType *json.UnmarshalTypeError
	var notBase64 base64.CorruptInputError
	switch {
	case errors.As(err, &notBase64):
		err = fmt.Errorf("a Payload is not base64: %w", err)
	case errors.As(err, &wrongType) && wrongType.Field == "":
		err = fmt.Errorf("expected a list of events, [ {...} ], got a %s", wrongType.Value)
	case errors.As(err, &wrongType):
		expected := "string"
		if wrongType.Field == "LTime" {
			expected = "whole number"
		}
		err = fmt.Errorf("the %s of an event is a %s, expected a %s", wrongType.Field, wrongType.Value, expected)
	}
	return fmt.Errorf("parse Consul events: %w", err)
}

// PayloadMistake is Mistake for the payload of a Consul event.
func PayloadMistake(payload, id, name string) error {
	if Mistake(payload) == nil {
		return nil
	}
	has := "no payload"
	if payload != "" {
		has = "a payload that is not a URL"
	}
	return fmt.Errorf("event %s of Consul has %s: expected a manifest URL, as in: consul event -name %s s3://bucket/manifest.yml", redact.Printable(id), has, redact.Printable(name))
}
