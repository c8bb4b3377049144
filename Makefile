# Everything a developer of Tailgate runs. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

GO ?= go
CACHE := $(or $(TAILGATE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tailgate)

# Tools are built once into the cache. Their directory is keyed by all that decides what they are: the pinned
# versions of the module and the Go toolchain.
tool_key = $(shell { cat $(1)/go.mod $(1)/go.sum; $(GO) env GOVERSION; } | cksum | cut -d' ' -f1)
GENERATORS = $(eval GENERATORS := $(CACHE)/tools/generate-$(call tool_key,tools))$(GENERATORS)
LINTERS = $(eval LINTERS := $(CACHE)/tools/lint-$(call tool_key,tools/lint))$(LINTERS)

TEST_FLAGS ?= -race -shuffle=on -timeout=20m
PACKAGES ?= ./...
FUZZ_TIME ?= 30s

# The simulation's seeds: how many, from which on.
SEEDS ?= 200
SEED0 ?= 1

##@ General

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*##"; print "Usage: make <target>" } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-zA-Z][a-zA-Z0-9_-]*:.*##/ { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# What the demo starts. Its own program is one of them.
PROGRAMS := hub=./hub/cmd/hub spoke=./spoke/cmd/spoke standin=./e2e-kind/standin/cmd/envoy webapp=./e2e-kind/webapp demo=./e2e-kind/cmd/demo

.PHONY: programs
programs: ## Build what the demo starts, into .demo/bin
	@for p in $(PROGRAMS); do $(GO) build -o .demo/bin/$${p%%=*} $${p#*=}; done

.PHONY: demo
demo: assets programs ## Run a federation on this machine and kill a cluster of it (KEEP=1 leaves it running)
	@.demo/bin/demo $(if $(KEEP),--keep)

.PHONY: e2e-kind
e2e-kind: ## Run the suite on kind clusters (KEEP=1 leaves them, DOWN=1 deletes those, RUN=regexp selects scenarios, HUB_AWAY=duration)
	@$(GO) run ./e2e-kind/cmd/kind $(if $(KEEP),-keep) $(if $(DOWN),-down) $(if $(RUN),-run '$(RUN)') $(if $(HUB_AWAY),-hub-away $(HUB_AWAY))

##@ Build

.PHONY: build
build: ## Compile everything
	$(GO) build ./...

.PHONY: assets
assets: ## Build kube-apiserver, etcd and Envoy Gateway into the cache, where they are not there yet
	@e2e-kind/assets/build >/dev/null

.PHONY: generate
generate: $(GENERATORS)/.built ## Generate protobuf code, deepcopy, CRDs and RBAC
	@PATH="$(GENERATORS):$$PATH" buf generate
	@$(GENERATORS)/controller-gen object paths=./api/v1alpha1/...
	@$(GENERATORS)/controller-gen crd:generateEmbeddedObjectMeta=false paths=./api/v1alpha1/... output:crd:dir=deploy/crds
	@for part in hub spoke; do \
		$(GENERATORS)/controller-gen rbac:roleName=tailgate-$$part,fileName=$$part-role.yaml \
			paths=./$$part/... output:rbac:dir=deploy/rbac; \
	done

.PHONY: golden
golden: ## Rewrite the golden files of the tests and drop those without an input
	UPDATE_GOLDEN=1 $(GO) test $(PACKAGES) -run Golden -count=1

.PHONY: fmt
fmt: $(LINTERS)/.built ## Format the Go code
	$(LINTERS)/golangci-lint fmt ./...

##@ Deploy

# The version is the charts', so that they install by default what is built here.
VERSION ?= $(shell sed -n 's/^appVersion: *"\(.*\)"/\1/p' deploy/charts/tailgate-hub/Chart.yaml)
COMMIT ?= $(shell git rev-parse HEAD)$(shell git diff --quiet HEAD || echo -dirty)
IMAGES ?= ghcr.io/tailgate-project
CA_CERTIFICATES ?= $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))

# What decides the bytes of a program; deploy/images/Dockerfile has the same.
IMAGE_BUILD = CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -buildvcs=false \
	-ldflags "-s -w -buildid= -X main.buildVersion=$(VERSION) -X main.buildCommit=$(COMMIT)"

.PHONY: images
images: ## Build static, reproducible hub and spoke into .demo/images, and images of them where a Docker daemon answers
	@mkdir -p .demo/images/again && cp $(CA_CERTIFICATES) .demo/images/ca-certificates.crt
	@for name in hub spoke; do \
		$(IMAGE_BUILD) -o .demo/images/$$name ./$$name/cmd/$$name; \
		$(IMAGE_BUILD) -o .demo/images/again/$$name ./$$name/cmd/$$name; \
		cmp .demo/images/$$name .demo/images/again/$$name; \
		if grep -qF "$(CURDIR)" .demo/images/$$name; then echo "$$name has a path of this machine in it" >&2; exit 1; fi; \
		echo "$$(cd .demo/images && sha256sum $$name), two builds alike"; \
	done; rm -rf .demo/images/again
	@if ! docker version >/dev/null 2>&1; then echo "no Docker daemon answers: no images"; exit 0; fi; \
	for name in hub spoke; do \
		docker build --quiet -f deploy/images/Dockerfile.prebuilt --target $$name --build-arg VERSION=$(VERSION) \
			--build-arg COMMIT=$(COMMIT) -t $(IMAGES)/tailgate-$$name:$(VERSION) .demo/images >/dev/null; \
		echo "$(IMAGES)/tailgate-$$name:$(VERSION)"; \
	done

.PHONY: charts
charts: ## Copy CRDs and RBAC into the charts, and render deploy/install from them
	@$(GO) run ./deploy/cmd/render

.PHONY: reference
reference: ## Write the references of deploy/docs from the CRDs, the constants and the metrics
	@$(GO) run ./deploy/cmd/reference

##@ Check

.PHONY: check
check: verify-generate vet lint test ## Everything a change must pass: generated code, vet, lint, race tests

.PHONY: test
test: assets ## Run all tests, with the race detector and in random order
	$(GO) test $(TEST_FLAGS) $(PACKAGES)

.PHONY: vet
vet: ## Run go vet
	$(GO) vet ./...

.PHONY: lint
lint: $(LINTERS)/.built ## Run golangci-lint
	$(LINTERS)/golangci-lint run ./...

.PHONY: verify-generate
verify-generate: ## Fail if `make generate charts reference` would change a file
	@before=$$(mktemp) && after=$$(mktemp) && trap 'rm -f "$$before" "$$after"' EXIT && \
	$(generated_sums) >"$$before" && $(MAKE) --no-print-directory generate charts reference && $(generated_sums) >"$$after" && \
	if ! diff "$$before" "$$after"; then \
		echo "The generated files above were out of date. They are right now: commit them." >&2; exit 1; \
	fi

# generated_sums prints a checksum of each generated file, also of those that git does not know yet.
generated_sums = find . -name .git -prune -o -type f \
	\( -name '*.pb.go' -o -name 'zz_generated.*' -o -path './deploy/crds/*' -o -path './deploy/rbac/*' \
	-o -path './deploy/install/*' -o -path './deploy/charts/*/files/*' -o -path './deploy/docs/*.md' \) \
	-exec cksum {} + | sort -k3

.PHONY: fuzz
fuzz: ## Fuzz every fuzz test for FUZZ_TIME (30s) each
	@$(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}} {{.ImportPath}}{{end}}' $(PACKAGES) | \
	while read -r dir package; do \
		for name in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -d' ' -f2); do \
			echo "$$package $$name"; \
			$(GO) test "$$package" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ_TIME) </dev/null; \
		done; \
	done

.PHONY: sim
sim: ## Simulate SEEDS (200) federations with faults, from SEED0 on, and check the invariants; failing seeds are shrunk
	@$(GO) run ./federation/sim/cmd/sim -seeds $(SEEDS) -seed0 $(SEED0)

.PHONY: bench
bench: assets programs ## Measure the core, the stores, an endpoint's way to another cluster's Envoy, 1,000 exposed Services and the extension; JSON lines, each beside its baseline
	@$(GO) run ./hub/cmd/bench
	@.demo/bin/demo --bench
	@.demo/bin/demo --scale 1000
	@$(GO) test ./extension/envoygateway -run '^$$' -bench . -benchtime 1x | grep '^{'

.PHONY: clean
clean: ## Remove what was built in the tree (the cache stays: $TAILGATE_CACHE or ~/.cache/tailgate)
	rm -rf .demo

$(GENERATORS)/.built:
	@echo "building the code generators into $(@D), once"
	@cd tools && GOBIN="$(@D)" $(GO) install tool
	@touch $@

$(LINTERS)/.built:
	@echo "building golangci-lint into $(@D), once"
	@cd tools/lint && GOBIN="$(@D)" $(GO) install tool
	@touch $@
