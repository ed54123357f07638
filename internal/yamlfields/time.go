package yamlfields

import (
	"fmt"
	"time"
)

// ParseTime parses a time as in RFC 3339. The error has nothing of the text, which
// may be of a file that is no manifest.
func ParseTime(text string) (at time.Time, err error) {
	if at.UnmarshalText([]byte(text)) == nil && !at.IsZero() {
		return at, nil
	}
	problem := "is not a time"
	if _, err := time.Parse(time.DateOnly, text); err == nil {
		problem = "has no time and no time zone"
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if _, err := time.Parse(layout, text); err == nil {
			problem = "has no time zone"
		}
	}
	return time.Time{}, fmt.Errorf("%s: write it as 2030-12-31T23:59:59Z or 2030-12-31T23:59:59+09:00 (RFC 3339)", problem)
}
