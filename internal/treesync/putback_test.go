package treesync

import (
	"errors"
	"fmt"
	"testing"
)

func TestFirstOf(t *testing.T) {
	t.Parallel()
	a, b := errors.New("a"), errors.New("b")
	for _, test := range []struct {
		errs []error
		want string
	}{
		{nil, "<nil>"}, {[]error{nil, nil}, "<nil>"}, {[]error{nil, a, nil}, "a"}, {[]error{b, a}, "b (and 1 more)"},
		{[]error{nil, firstOf([]error{a, b, b}), firstOf([]error{b, a}), a}, "a (and 5 more)"},
	} {
		if got := fmt.Sprint(firstOf(test.errs)); got != test.want {
			t.Errorf("%v: %s, want %s", test.errs, got, test.want)
		}
	}
	if !errors.Is(firstOf([]error{a, b}), a) {
		t.Error("the first is not wrapped")
	}
}
