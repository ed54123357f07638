package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/runlog"
)

// check prints what is wrong with a manifest, in the form that editors and CI
// systems recognize. It returns false if a deployment would refuse the manifest, or
// if it cannot be read.
func check(manifest string, conf stretcher.Config) (ok bool) {
	problems, err := stretcher.Check(context.Background(), manifest, conf)
	if err != nil {
		return false // the error is in the log
	}
	name := manifest
	if name == "-" {
		name = "<stdin>" // as compilers call it
	} else if strings.Contains(name, "://") {
		name = redact.URL(name)
	}
	ok = true
	var out strings.Builder
	for _, p := range problems {
		warning := ""
		if p.Warning {
			warning = "warning: "
		}
		ok = ok && p.Warning
		fmt.Fprintf(&out, "%s:%d: %s%s\n", redact.Printable(name), p.Line, warning, p.Text)
	}
	if _, err := os.Stdout.WriteString(out.String()); err != nil {
		runlog.New(os.Stderr, new(bytes.Buffer), "", conf.LogFormat).Print("ERROR", "stretcher: "+err.Error()+"\n")
		return false
	}
	return ok
}
