package stretcher_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"time"

	"github.com/fujiwara/stretcher"
)

// These declarations use every exported name of the original with its exact
// type. The test is that they compile.
var (
	_ bytes.Buffer                                              = stretcher.LogBuffer
	_ *string                                                   = &stretcher.Version
	_ *[]string                                                 = &stretcher.RsyncDefaultOpts
	_ *string                                                   = &stretcher.RsyncVerboseOpt
	_ *os.FileMode                                              = &stretcher.DefaultDestMode
	_ func(float64) time.Duration                               = stretcher.RandomTime
	_ func(stretcher.Config) error                              = stretcher.Run
	_ func(string) error                                        = stretcher.SetRsyncVerboseOpt
	_ func(stretcher.CommandLine) error                         = stretcher.CommandLine.Invoke
	_ func(stretcher.CommandLine, io.Reader) error              = stretcher.CommandLine.InvokePipe
	_ func(stretcher.CommandLine) string                        = stretcher.CommandLine.String
	_ func(stretcher.CommandLines) error                        = stretcher.CommandLines.Invoke
	_ func(stretcher.CommandLines, *bytes.Buffer) error         = stretcher.CommandLines.InvokePipe
	_ func(io.Reader) (*stretcher.ConsulEvent, error)           = stretcher.ParseConsulEvents
	_ func([]byte) (*stretcher.Manifest, error)                 = stretcher.ParseManifest
	_ func(*stretcher.Manifest, stretcher.Config) error         = (*stretcher.Manifest).Deploy
	_ func(*stretcher.MvSyncStrategy, string, string) error     = (*stretcher.MvSyncStrategy).Sync
	_ func(*stretcher.RsyncStrategy, string, string) error      = (*stretcher.RsyncStrategy).Sync
	_ func(*stretcher.Manifest) (stretcher.SyncStrategy, error) = stretcher.NewSyncStrategy
	_ interface{ Sync(from, to string) error }                  = stretcher.SyncStrategy(nil)
	_ stretcher.SyncStrategy                                    = &stretcher.RsyncStrategy{Manifest: &stretcher.Manifest{}}
	_ stretcher.SyncStrategy                                    = &stretcher.MvSyncStrategy{}
	_ []stretcher.ConsulEvent                                   = stretcher.ConsulEvents{}
	_ []stretcher.CommandLine                                   = stretcher.CommandLines{stretcher.CommandLine("untyped")}
)

// Nanoseconds is an untyped constant.
const _ int = stretcher.Nanoseconds
const _ float64 = stretcher.Nanoseconds

var (
	mode = os.FileMode(0o711)
	_    = stretcher.Manifest{
		Src:          "",
		CheckSum:     "",
		Dest:         "",
		DestMode:     &mode,
		Commands:     stretcher.Commands{Pre: stretcher.CommandLines{""}, Post: nil, Success: nil, Failure: nil},
		Excludes:     []string{""},
		ExcludeFrom:  "",
		SyncStrategy: "",
	}
	_ = stretcher.Config{
		MaxBandWidth: uint64(0),
		Timeout:      time.Duration(0),
		InitSleep:    time.Duration(0),
		Retry:        int(0),
		RetryWait:    time.Duration(0),
	}
	_ = stretcher.ConsulEvent{ID: "", Name: "", Payload: []byte(nil), LTime: int(0)}
)

// These names are not in the original.
var (
	_ func(context.Context, stretcher.Config) error                      = stretcher.RunContext
	_ func(context.Context, string, stretcher.Config) error              = stretcher.RunURL
	_ func(*stretcher.Manifest, context.Context, stretcher.Config) error = (*stretcher.Manifest).DeployContext
)
