// Package stretcher has on macOS what is needed to make releases: it parses and checks
// manifests, and runs commands. Deploying needs Linux, and fails here.
package stretcher

import (
	"context"
	"errors"
)

var errNotLinux = errors.New("deploying needs Linux; on macOS, releases can be packed (stretcher pack) and manifests checked (stretcher -check)")

// Run fails, and so does all that deploys.
func Run(conf Config) error {
	defer capture.Start(conf.LogLevel, conf.LogFormat)()
	return logged("Deploy manifest", errNotLinux)
}

// RunContext is Run.
func RunContext(_ context.Context, conf Config) error { return Run(conf) }

// RunURL is Run.
func RunURL(_ context.Context, _ string, conf Config) error { return Run(conf) }

// Rollback is Run.
func Rollback(_ context.Context, _ string, conf Config) error { return Run(conf) }

// Deploy is Run.
func (*Manifest) Deploy(conf Config) error { return Run(conf) }

// DeployContext is Run.
func (*Manifest) DeployContext(_ context.Context, conf Config) error { return Run(conf) }

// SyncStrategy is a way to make one directory, to, equal to another one, from.
type SyncStrategy interface {
	Sync(from, to string) error
}

// NewSyncStrategy fails.
func NewSyncStrategy(*Manifest) (SyncStrategy, error) { return nil, errNotLinux }

// MvSyncStrategy is a strategy that fails.
type MvSyncStrategy struct{}

// Sync fails.
func (*MvSyncStrategy) Sync(from, to string) error { return errNotLinux }

// RsyncStrategy is a strategy that fails.
type RsyncStrategy struct{ *Manifest }

// Sync fails.
func (*RsyncStrategy) Sync(from, to string) error { return errNotLinux }
