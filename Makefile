# make help    lists the targets
# make test    runs all tests, against real servers; they must pass. Programs that
#              are missing are installed only if it is run by root, or with the
#              command to become root: make test SUDO=sudo
# make check   runs the unit tests only: no servers, no race detector

PREFIX   ?= /usr/local
FUZZTIME ?= 10s

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X github.com/fujiwara/stretcher.Version=$(VERSION))

.PHONY: help build install dist demo docs check test sweep deps lint fuzz bench bench-fleet clean

help:
	@echo 'make build    build bin/stretcher ($(or $(VERSION),version unknown))'
	@echo 'make install  install to $$DESTDIR$$PREFIX (PREFIX is $(PREFIX))'
	@echo 'make dist     build archives and packages (deb, rpm, apk) of this commit in dist/'
	@echo 'make demo     deploy, upgrade and roll back a sample application, in a temporary directory'
	@echo 'make check    go vet and unit tests, no servers'
	@echo 'make test     all tests, with Consul, Serf, S3, GCS, sshd, nginx and rsync;'
	@echo '              with SUDO=sudo, it may install missing Debian packages'
	@echo 'make sweep    inject a fault into each file system call of a deployment (amd64; an hour)'
	@echo 'make lint     gofmt, go vet, go mod tidy, staticcheck, errcheck, ineffassign, shellcheck, actionlint'
	@echo 'make docs     make the pictures and the JSON Schema of docs/ again'
	@echo 'make fuzz     run every fuzz target for FUZZTIME ($(FUZZTIME))'
	@echo 'make bench    measure everything that has a goal, and write docs/performance.md;'
	@echo '              25 minutes on 2 cores that do nothing else'
	@echo 'make bench-fleet  measure 200 agents that deploy from one nginx (5 minutes)'
	@echo 'make deps     make what the tests need available: servers and system packages'
	@echo 'make clean    remove bin and dist'
	@echo
	@echo 'make check, test and lint are what a change must pass: see CONTRIBUTING.md.'

# The version is that of VERSION. With -buildvcs, git would refuse to build a clone that
# belongs to another user.
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/stretcher ./cmd/stretcher

install: build
	install -D -m 0755 bin/stretcher $(DESTDIR)$(PREFIX)/bin/stretcher
	install -D -m 0644 packaging/stretcher.8 $(DESTDIR)$(PREFIX)/share/man/man8/stretcher.8
	install -D -m 0644 packaging/completions/stretcher.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/stretcher
	install -D -m 0644 packaging/completions/_stretcher $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_stretcher
	install -D -m 0644 packaging/completions/stretcher.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/stretcher.fish

dist: bin/tools/packages.built
	VERSION='$(VERSION)' packaging/dist.sh

demo: build
	examples/demo.sh bin/stretcher

# The pictures and the JSON Schema of the documentation. The recording is that of a
# deployment of this moment, so it always differs a little.
docs: build
	go generate
	cd e2e && go run ./record -o ../docs/images/deployment.svg ../bin/stretcher

check:
	go vet ./...
	go test ./...

test: deps build
	go vet ./...
	cd e2e && go vet ./...
	cd e2e && go run ./summary .. .

# make test injects only some of these faults, at random.
sweep: deps
	cd e2e && go test -count=1 -timeout 6h -run '^TestFaultSweep$$' -v . -sweep.all

# Besides Go, the tests need system packages and the servers whose versions are
# pinned in e2e/tools.
deps:
	SUDO='$(SUDO)' e2e/deps.sh
	$(MAKE) bin/tools/servers.built bin/tools/packages.built

bin/tools/servers.built: e2e/tools/go.mod e2e/tools/go.sum
	cd e2e/tools && go build -trimpath -ldflags '-s -w' -o ../../bin/tools/ tool
	@touch $@

bin/tools/packages.built: e2e/packages/go.mod e2e/packages/go.sum
	cd e2e/packages && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/tools/ tool
	@touch $@

bin/tools/lint.built: e2e/lint/go.mod e2e/lint/go.sum
	cd e2e/lint && go build -trimpath -o ../../bin/tools/ tool
	@touch $@

lint: bin/tools/lint.built
	@unformatted=$$(gofmt -l .) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	cd e2e && go vet ./...
	@echo GOOS=darwin go vet, without tests
	@GOOS=darwin go list -deps -f '{{with .Module}}{{if .Main}}cd {{$$.Dir}} && go vet {{join $$.GoFiles " "}}{{end}}{{end}}' ./cmd/stretcher | GOOS=darwin sh -e
	go mod tidy -diff
	bin/tools/staticcheck ./...
	cd e2e && ../bin/tools/staticcheck ./...
	bin/tools/errcheck -ignoretests -exclude e2e/lint/errcheck.txt ./...
	bin/tools/ineffassign ./...
	cd e2e && ../bin/tools/ineffassign ./...
	bin/tools/actionlint examples/ci/github-actions.yml
	@if command -v shellcheck >/dev/null; then shellcheck e2e/deps.sh packaging/*.sh e2e/testdata/systemd/*.sh examples/*.sh examples/fleet/*.sh; \
	else echo 'shellcheck is not installed: the shell scripts are not checked'; fi

# Each target runs in one process, as many of them at a time as there are processors.
fuzz:
	cd e2e && go run ./summary -fuzz $(FUZZTIME)

bench:
	cd e2e && go run ./bench

# It also replaces the figures in this document.
bench-fleet:
	cd e2e && go run ./fleetbench -update ../docs/scale.md

clean:
	rm -rf bin dist
