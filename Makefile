# One way to run everything. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# RELEASE=1 builds, tests and runs what is optimised, as CI does (several minutes the first time).
PROFILE := $(if $(RELEASE),--release,)
BUILT := target/$(if $(RELEASE),release,debug)
timed = @started=$$SECONDS; $(2); echo "$(1): $$((SECONDS - started)) s"

.PHONY: help doctor setup setup-root demo demo-cluster build image test conflicts constraints hostile rotations test-cluster test-delivery lint bench fuzz advisories clean

help: ## lists these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

doctor: ## says what this machine lacks, and gives the one line that installs it
	@scripts/doctor

setup: ## puts the project's own tools into .tools (Envoy 1.40 and 1.38, Kubernetes and Prometheus for tests, cargo-deny, cargo-shear)
	@scripts/setup-lint-tools
	@scripts/setup-pki-lint
	@scripts/setup-prometheus
	@scripts/setup-envoy 1.40 1.38
	@scripts/setup-go-tools kubernetes

setup-root: ## as root: installs what transparent capture and the cluster need (apt-get install iptables iproute2 curl containerd …)
	@scripts/setup-root

build: ## builds the library, the binary and the demo
	cargo build --locked $(PROFILE) --bin istiod-lite --example demo

image: ## makes the image as target/image/{rootfs,istiod-lite}.tar, and the demo's workload (reviews.tar); BIN= takes a ready binary instead of a release build, IMAGE= names the image
	@scripts/setup-envoy 1.40
	@$(if $(BIN),,cargo build --locked --release --bin istiod-lite)
	@BIN="$(or $(BIN),target/release/istiod-lite)" ENVOY="$$(. scripts/tools.sh && find_envoy 1.40)" scripts/make-image
	@cargo build --quiet --locked --release --bin reviews
	@tests/cluster/box/images.py target/image --reviews target/release/reviews

demo: ## shifts a canary through real Envoys, live; ARGS="--keep" leaves it running, ARGS="--judge prometheus" has metrics decide
	@scripts/doctor >/dev/null || { scripts/doctor; exit 1; }
	@scripts/setup-envoy 1.40
	@$(if $(findstring prometheus,$(ARGS)),scripts/setup-prometheus)
	@echo "building (a few minutes the first time)"
	@cargo build --quiet --locked $(PROFILE) --bin istiod-lite --example demo
	@ENVOY="$$(. scripts/tools.sh && find_envoy 1.40)" $(BUILT)/examples/demo $(ARGS)

demo-cluster: ## as root: shifts the same canary on a real Kubernetes node with injected pods; ARGS="--keep" leaves it running
	@scripts/setup-root
	@scripts/setup-envoy 1.40
	@scripts/setup-go-tools kubernetes coredns
	@echo "building (a few minutes the first time)"
	@cargo build --quiet --locked $(PROFILE) --bin istiod-lite --bin reviews --example demo-cluster
	@$(BUILT)/examples/demo-cluster $(ARGS)

test: ## runs every test, with real Envoys and a real API server; WALK_STEPS, WALK_SEED set the random walk
	@scripts/setup-envoy 1.40 1.38
	@scripts/setup-pki-lint || echo "without pkilint the test that asks it is skipped"
	@scripts/setup-prometheus || echo "without Prometheus the tests that ask it are skipped"
	@scripts/setup-redis || echo "without redis-server the test of rate limits by a service fails"
	@scripts/setup-go-tools kubernetes istio extauthz ratelimit
	$(call timed,build,cargo test --locked $(PROFILE) --no-run)
	$(call timed,tests,RUST_BACKTRACE=0 cargo test --locked $(PROFILE) --no-fail-fast)

conflicts: ## tries 20,000 meshes whose objects get in each other's way on a real Envoy; CONFLICT_CASES, CONFLICT_SEED set them
	@scripts/setup-envoy 1.40
	CONFLICT_CASES="$${CONFLICT_CASES:-20000}" cargo test --locked $(PROFILE) --test offline conflicts -- --nocapture

constraints: ## sets every field of the messages that we send to values that Envoy may not like, and asks it about each; CONSTRAINT_CASES, CONSTRAINT_SEED set them
	@scripts/setup-envoy 1.40
	CONSTRAINT_CASES="$${CONSTRAINT_CASES:-100000}" cargo test --locked $(PROFILE) --test offline constraints -- --nocapture

hostile: ## gives every field 20,000 hostile values and asks a real Envoy about what the checks take; HOSTILE_CASES, HOSTILE_SEED, FIELD set them
	@scripts/setup-envoy 1.40
	HOSTILE_CASES="$${HOSTILE_CASES:-20000}" cargo test --locked $(PROFILE) --test offline hostile -- --nocapture

rotations: ## replaces the authority under load on real Envoys, with 20 leaves for every proxy and 20 certificates of a gateway; ROTATIONS sets them
	@scripts/setup-envoy 1.40
	ROTATIONS="$${ROTATIONS:-20}" cargo test --locked $(PROFILE) --test envoy the_authority_is_replaced_under_load -- --nocapture

test-cluster: ## as root: tests the mesh on a real Kubernetes node with real pods; TESTS=<name> runs only some
	@scripts/setup-envoy 1.40
	@scripts/setup-go-tools kubernetes coredns istio
	$(call timed,build-cluster,cargo build --locked $(PROFILE) --bin istiod-lite --bin reviews --test cluster)
	$(call timed,test-cluster,RUST_BACKTRACE=0 CLUSTER_TESTS=1 cargo test --locked $(PROFILE) --test cluster -- $(TESTS))

test-delivery: ## as root: has Flagger and Argo Rollouts, unmodified, deliver releases on such a node; not part of CI (their builds take a quarter of an hour)
	@scripts/setup-envoy 1.40
	@scripts/setup-prometheus
	@scripts/setup-go-tools kubernetes coredns istio flagger argo-rollouts
	$(call timed,build-cluster,cargo build --locked $(PROFILE) --bin istiod-lite --bin reviews --test cluster)
	$(call timed,test-delivery,RUST_BACKTRACE=0 CLUSTER_TESTS=delivery cargo test --locked $(PROFILE) --test cluster -- $(TESTS))

lint: ## checks formatting, clippy, unused dependencies, licences and banned crates
	$(call timed,fmt,cargo fmt --all --check)
	$(call timed,clippy,cargo clippy --locked $(PROFILE) --workspace --all-targets -- -D warnings)
	@scripts/setup-lint-tools
	$(call timed,shear,.tools/bin/cargo-shear --locked --deny-warnings)
	$(call timed,deny,.tools/bin/cargo-deny --locked check bans licenses sources)
	$(call timed,advisories,scripts/check-advisories)

fuzz: ## reads reviews, YAML, certificate requests, tokens, key sets, PEM and requests of proxies at random, FUZZ_SECONDS (20) each; FUZZ_SEED goes through the same ones again
	FUZZ_SECONDS=$${FUZZ_SECONDS:-20} cargo test --locked $(PROFILE) --test attack -- fuzz --nocapture --test-threads 1
	FUZZ_SECONDS=$${FUZZ_SECONDS:-20} cargo test --locked $(PROFILE) --lib -- session::hostile --nocapture --test-threads 1

advisories: ## looks for known vulnerabilities in dependencies in the newest database (needs github.com; lint asks a snapshot)
	@scripts/setup-lint-tools
	rm -rf target/advisories
	.tools/bin/cargo-deny --locked check advisories

bench: ## measures README's figures: a sidecar of 1,000 services, certificates, convergence of 20 Envoys, memory, metrics; not part of test
	@scripts/setup-envoy 1.40
	cargo bench --locked --workspace --bench sidecar --bench certificates --bench convergence --bench memory --bench telemetry

clean: ## removes what was built and fetched
	rm -rf target .tools .demo
