# Everything a contributor runs. `make help` lists the targets.
#
# What the tests need and this repository does not hold (upstream's binary, S3
# servers, the linter) is installed once into a cache outside the clone.

SHELL := /bin/bash

CACHE     := $(or $(LITESTREAM_TEST_CACHE),$(HOME)/.cache/litestream-test)
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME  ?= 10s
SOAK_TIME ?= 10m
SEED      ?= 0
BENCH_FLAGS ?=

# Tests find what was installed through these (package tests/servers reads them).
export LITESTREAM_TEST_CACHE     := $(CACHE)
export LITESTREAM_TEST_UPSTREAM  ?= $(CACHE)/bin/litestream-v0.5.18
export LITESTREAM_TEST_UPSTREAM_V03 ?= $(CACHE)/bin/litestream-v0.3.14
export LITESTREAM_TEST_VERSITYGW ?= $(CACHE)/bin/versitygw

GOLANGCI := $(CACHE)/bin/golangci-lint

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## see it work: 1,000 databases, one of them lost and restored
	@go run ./cmd/litestream-demo bin/litestream

.PHONY: build
build: ## build bin/litestream
	go build -ldflags '-X main.version=$(VERSION)' -o bin/litestream ./cmd/litestream

# Packages go to hosts with other C libraries: their program needs none.
STATIC := -trimpath -tags osusergo,netgo,sqlite_omit_load_extension
PACKAGE_VERSION ?= $(shell echo '$(VERSION)' | sed -E '/^v?[0-9]+\./!s/^/0.0.0~git./')

.PHONY: package
package: ## build dist/*.deb and dist/*.rpm (VERSION=1.2.3); the program is static
	@scripts/install.sh nfpm
	CGO_ENABLED=1 go build $(STATIC) -ldflags '-s -w -X main.version=$(VERSION) -extldflags=-static' -o dist/package/litestream ./cmd/litestream
	for kind in deb rpm; do VERSION='$(PACKAGE_VERSION)' ARCH=$$(go env GOARCH) $(CACHE)/bin/nfpm package -f packaging/nfpm.yaml -p $$kind -t dist/ || exit 1; done

# Tests that the race detector makes much smaller, or takes the sense from.
WITHOUT_RACE := TestDB_LockPage|TestTenant_Resident|TestMultiDBManager_Drill|TestPlanRestore_Oracle

.PHONY: test
test: upstream servers ## every test, with the race detector, real servers and short fuzzing
	go vet ./...
	LITESTREAM_TEST_REQUIRE=1 go test -race -timeout 20m ./...
	go test -run '^($(WITHOUT_RACE))$$' .
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: test-short
test-short: ## the quick tests only; installs nothing
	go test -short ./...

.PHONY: bench
bench: build upstream ## benchmarks, and side by side with upstream (half an hour)
	go test -run '^$$' -bench . -benchmem -timeout 30m ./...
	@scripts/install.sh versitygw
	go run ./cmd/litestream-bench -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) -versitygw $(LITESTREAM_TEST_VERSITYGW) $(BENCH_FLAGS)

.PHONY: bench-backends
bench-backends: build upstream ## side by side with upstream on each kind of storage (six minutes)
	go run ./cmd/litestream-bench backends -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) $(BENCH_FLAGS)

.PHONY: bench-fleet
bench-fleet: build upstream ## 1k, 10k and 100k databases on one host, upstream beside it (two hours)
	@scripts/install.sh versitygw
	go run ./cmd/litestream-bench fleet -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) $(BENCH_FLAGS)
	go run ./cmd/litestream-bench fleet -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) -versitygw $(LITESTREAM_TEST_VERSITYGW) -replica s3 -sizes 10k $(BENCH_FLAGS)
	go run ./cmd/litestream-bench fleet -litestream bin/litestream -upstream "" -wal -sizes 100k -load 0 -burst 0 -verify 0 $(BENCH_FLAGS)

.PHONY: bench-restore
bench-restore: build upstream ## the restore of 10k and 100k databases, and beside it a loop of upstream's command (ten minutes)
	@scripts/install.sh versitygw
	go run ./cmd/litestream-bench fleet-restore -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) $(BENCH_FLAGS)
	go run ./cmd/litestream-bench fleet-restore -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) -n 100000 $(BENCH_FLAGS)
	go run ./cmd/litestream-bench fleet-restore -litestream bin/litestream -upstream $(LITESTREAM_TEST_UPSTREAM) -versitygw $(LITESTREAM_TEST_VERSITYGW) -replica s3 -n 2000 $(BENCH_FLAGS)

.PHONY: compare
compare: upstream ## the same command lines with upstream and ours: every difference, and why
	@cd tests/compare && go test -count=1 -run '^TestCompare$$' -args -show

.PHONY: cross
cross: ## vet and compile for linux/arm64 and macOS, as far as goes here
	scripts/cross.sh

.PHONY: cross-tools
cross-tools: ## install the C cross compiler and qemu for linux/arm64 (apt)
	@scripts/install.sh cross

.PHONY: lint
lint: $(GOLANGCI) ## gofmt, go vet and golangci-lint
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(GOLANGCI) config verify
	$(GOLANGCI) run ./...

.PHONY: fmt
fmt: $(GOLANGCI) ## format all Go files
	$(GOLANGCI) fmt ./...

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME (10s) each
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: soak
soak: upstream servers ## each property test for SOAK_TIME (10m); SEED=n repeats a run
	go test -race -timeout 0 ./internal/metamorphic -run 'Soak$$' -v -args -soak $(SOAK_TIME) -seed $(SEED)
	go test -race -timeout 0 ./tests/faults -run 'Soak$$' -v -args -soak $(SOAK_TIME) -seed $(SEED)
	scripts/fuzz.sh 60s

.PHONY: tools
tools: $(GOLANGCI) upstream servers ## install everything that tests and lint need

.PHONY: upstream
upstream: ## install upstream's litestream v0.5.18 and v0.3.14 into the cache
	@scripts/install.sh upstream
	@scripts/install.sh upstream-v03

.PHONY: servers
servers: ## install the servers of the tests: into the cache, and by apt Ceph RGW, OpenSSH, lighttpd, nginx, Apache and rclone
	@scripts/install.sh versitygw
	@scripts/install.sh fake-gcs-server
	@scripts/install.sh nats-server
	@scripts/install.sh azurite
	@scripts/install.sh ceph
	@scripts/install.sh sshd
	@scripts/install.sh webdav

.PHONY: FORCE
$(GOLANGCI): FORCE
	@scripts/install.sh golangci-lint

.PHONY: ci
ci: ## what the continuous integration runs
	.ci/run

.PHONY: clean
clean: ## remove what was built here; the cache stays
	rm -rf bin dist sample
