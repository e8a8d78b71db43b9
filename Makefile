# Every command that CI runs, and those for developers.

# All builds use the same flags, without cgo and without local paths, so that the binary,
# tailscaled in the tests and the linter share one build cache. Any other set of flags
# compiles the engine's module graph again (about two minutes on two cores).
export CGO_ENABLED := 0
export GOFLAGS     := $(GOFLAGS) -trimpath -gcflags=github.com/aws/...=-l -gcflags=google.golang.org/protobuf/...=-l
# The Go version of go.mod: some systems configure Go not to fetch a newer one.
GO_VERSION         := $(shell sed -n 's/^go //p' go.mod)
export GOTOOLCHAIN ?= go$(GO_VERSION)

export VERSION  ?= $(shell scripts/version)
export REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# Recipes read variables that a user sets from the environment, so that the shell never runs
# a part of a value. All are quoted except for the lists of words ARGS and TAGS.
export REPOSITORY TAGS FUZZTIME FOLDER ARGS

# The parts of `make test`: the arguments of one `go test` each.
# Packages and commands under the race detector. Only this part uses it, since it needs
# another set of build flags.
# Most of these tests wait for the clock or for a child, so more of them run at once than there are processors, and
# the packages that take longest begin first.
unit      := -timeout=30m -race -p=4 -parallel=6 ./cmd/... ./internal/... ./scripts/... ./deploy/...
# Tens of thousands of simulated connections of the router's TCP, each in one goroutine. The
# race detector, with which they take ten times as long, sees a twentieth of them in unit.
simulation := -timeout=20m ./internal/simnet/own
# Every supported build of the router.
binary    := -timeout=20m -count=1 ./test/binary/...
# Real processes, networks and containers, never from the test cache. The tests of one package share a network namespace,
# so the end-to-end tests follow each other, mostly waiting: in two halves, of which each has its own namespace.
e2e-a-h   := -timeout=30m -count=1 -run '^Test[A-H]' ./test/e2e/...
e2e-i-z   := -timeout=30m -count=1 -skip '^Test[A-H]' ./test/e2e/...
image     := -timeout=30m -count=1 ./test/image/...
# The module, with terraform and moto_server; test/terraform lists the requirements.
terraform := -timeout=35m -count=1 -parallel=3 ./test/terraform/...
TALLY     := go run ./scripts/tally

# Three parts at a time: the end-to-end tests use a fifth of a processor, and terraform, the compilers and the unit tests
# the others.
JOBS ?= 3

# Parts that `make flakes` repeats, and the number of repetitions.
SUITES ?= unit e2e-a-h e2e-i-z image terraform
N      ?= 10

export JOBS N # after their defaults: an exported name counts as defined

LINT_VERSION := v2.15.0
VULN_VERSION := v1.9.0
# Without the comments.
BUILD_TAGS   := $(shell sed '/^\#/d' build/tags)
# A linter that an older Go has built refuses the language of a newer one.
LINT_DIR     := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/subnetrouter/golangci-lint-$(LINT_VERSION)-go$(GO_VERSION)
LINT         := $(LINT_DIR)/golangci-lint
GO_FOLDERS   := bench cmd deploy internal scripts test

.PHONY: help build sandbox bench test test-unit test-binary test-e2e test-image test-terraform soak flakes lint prose typecheck vulncheck newest-tailscale fuzz pictures image push release module notices tools

build: ## build the router, as shipped, in bin/router
	scripts/build bin/router

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-17s %s\n", $$1, $$2}' Makefile

sandbox: ## run the router in a throwaway tailnet, VPC and AWS on this machine (ARGS="--once")
	@scripts/sandbox $$ARGS

bench: ## compare the router with tailscaled, as root (ARGS="-group wan")
	@go run ./bench $$ARGS

test: lint build ## run everything: lint, unit, end-to-end, the image, Terraform (JOBS=3 parts at a time)
	@$(TALLY) -jobs "$$JOBS" $(terraform) + $(e2e-i-z) + $(e2e-a-h) + $(unit) + $(image) + $(binary) + $(simulation)

test-unit: ## test packages and commands under the race detector, and simulate TCP
	@$(TALLY) $(unit) + $(simulation)

test-binary: ## test every supported build of the router, and its size
	@$(TALLY) $(binary)

test-e2e: ## test real processes in network namespaces (root)
	@$(TALLY) -jobs 2 $(e2e-i-z) + $(e2e-a-h)

test-image: ## test the image in containers (Docker)
	@$(TALLY) $(image)

test-terraform: ## test the Terraform module against moto_server
	@$(TALLY) $(terraform)

soak: ## run long simulations and endurance tests (SOAK=10m each, CHAOS_SEED=… or SIMNET_SEED=… or SLOT_SEED=… replays one)
	@SOAK="$${SOAK:-10m}" $(TALLY) -timeout=0 -count=1 -run 'TestSoak|TestChaos|TestCrash' ./test/e2e ./internal/simnet/... ./internal/slot

flakes: ## run each of SUITES="unit e2e-a-h e2e-i-z image terraform" N=10 times, two at once, and count failures
	@$(TALLY) -jobs 2 -times "$$N" $(wordlist 2,999,$(foreach suite,$(SUITES),+ -count=1 $($(suite))))

lint: typecheck $(LINT) ## check formatting, linters and types
	@test -z "$$(gofmt -l $(GO_FOLDERS))" || { gofmt -d $(GO_FOLDERS); exit 1; }
	GOGC=400 '$(LINT)' run ./...
	cd scripts/publish && '$(LINT)' run ./...

typecheck: ## type-check the router for macOS and FreeBSD, without compiling it
	@go run ./scripts/typecheck -os darwin,freebsd ./cmd/router

vulncheck: ## list known vulnerabilities in code that the router calls (asks vuln.go.dev)
	@go run golang.org/x/vuln/cmd/govulncheck@$(VULN_VERSION) -tags "$(BUILD_TAGS)" ./cmd/router

newest-tailscale: ## raise tailscale.com to its newest release, in this work tree
	go get tailscale.com@latest
	go mod tidy -e # a module that only other modules' tests need may not be served
	$(MAKE) notices

prose: ## count "what" and dialect words in comments and documents (ARGS="-list docs")
	@go run ./scripts/prose $(ARGS)

# Outside of the checkout, so that all clones share it.
$(LINT):
	GOBIN='$(LINT_DIR)' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

fuzz: ## run each fuzz target for FUZZTIME=10s
	scripts/fuzz "$${FUZZTIME:-10s}"

pictures: ## take the screenshots of the documentation
	PICTURES="$$PWD/docs/img" go test -count=1 -run 'TestPage$$' ./test/e2e

image: ## build the image subnetrouter:VERSION
	scripts/image "subnetrouter:$$VERSION"

push: ## push the image: REPOSITORY=registry/name [TAGS="1.2.3 latest"]
	@scripts/push "$${REPOSITORY:?make push REPOSITORY=registry/name}" $$TAGS

release: ## release the checked-out commit: VERSION=1.2.3 REPOSITORY=registry/name, or DRY_RUN=1
	@scripts/release "$$VERSION" "$$REPOSITORY"

module: ## export the Terraform module as a repository: FOLDER=dist/…
	scripts/module "$${FOLDER:-dist/terraform-aws-tailscale-subnet-router}"

notices: ## regenerate THIRD_PARTY_NOTICES, after a change of go.mod
	go run ./scripts/notices -tags "$(BUILD_TAGS)" ./cmd/router THIRD_PARTY_NOTICES

tools: ## install the programs that the tests need (Debian, as root)
	scripts/tools
