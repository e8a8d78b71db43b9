# All that CI calls, and what a person needs.

# One way to build everything: without the C library and without local paths, so
# that the binary, the stock programs of the tests and the linter share one
# build cache. A new machine compiles the engine's module graph for each further
# way (two cores: some two minutes).
export CGO_ENABLED := 0
export GOFLAGS     := $(GOFLAGS) -trimpath

export VERSION  ?= $(shell scripts/version)
export REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
TAGS := $(shell cat build/tags)

# What is concurrent lies below internal; it is tested under the race detector,
# and only there: that is one of those further ways to build.
UNIT  := -timeout=20m -race ./internal/... + -timeout=10m ./cmd/... ./scripts/... ./deploy/...
# Real processes, networks and containers: one at a time, and every time.
E2E   := -timeout=20m -count=1 ./test/e2e/...
IMAGE := -timeout=20m -count=1 ./test/image/...
# The module, with terraform and moto_server; see test/terraform for what it needs.
TERRAFORM := -timeout=15m -count=1 ./test/terraform/...
TALLY := go run ./scripts/tally

LINT_VERSION := v2.15.0
LINT_DIR     := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/subnetrouter/golangci-lint-$(LINT_VERSION)
LINT         := $(LINT_DIR)/golangci-lint

.PHONY: pictures build sandbox bench test test-unit test-e2e test-image test-terraform lint image push release notices fuzz tools

build:
	scripts/build bin/router

sandbox:
	@go run ./cmd/sandbox $(ARGS)

bench:
	@go run ./bench $(ARGS)

test: lint build
	@$(TALLY) $(UNIT) + $(E2E) + $(IMAGE) + $(TERRAFORM)

test-unit:
	@$(TALLY) $(UNIT)

test-e2e:
	@$(TALLY) $(E2E)

test-image:
	@$(TALLY) $(IMAGE)

test-terraform:
	@$(TALLY) $(TERRAFORM)

lint: $(LINT)
	@test -z "$$(gofmt -l cmd deploy internal scripts test)" || { gofmt -d cmd deploy internal scripts test; exit 1; }
	$(LINT) run ./...
	cd scripts/publish && $(LINT) run ./...

# Outside of the checkout, so that a fresh clone finds it.
$(LINT):
	GOBIN=$(LINT_DIR) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

image:
	scripts/image subnetrouter:$(VERSION)

# make push REPOSITORY=registry/name [TAGS="1.2.3 latest"]
push:
	@scripts/push $(or $(REPOSITORY),$(error say where to: make push REPOSITORY=registry/name)) $(TAGS)

# make release VERSION=1.2.3 REPOSITORY=registry/name, or with DRY_RUN=1
release:
	@scripts/release $(VERSION) $(REPOSITORY)

notices:
	go run ./scripts/notices -tags '$(TAGS)' ./cmd/router THIRD_PARTY_NOTICES

fuzz:
	scripts/fuzz $(or $(FUZZTIME),10s)

# The pictures of the documentation, taken by the tests.
pictures:
	PICTURES=$(CURDIR)/docs/img go test -count=1 -run 'TestPage$$|TestDashboard$$' ./test/e2e

tools:
	scripts/tools
