# One target per task, the same for people and CI. `make help` lists them.
#
# Every recipe that compiles runs through scripts/tools: it finds or fetches protoc (etcd-client's build needs it) and
# etcd (the tests and the demo start it), and runs the command with PROTOC and ETCD set. Set either to use your own:
# make test ETCD=path/to/etcd, or ETCD=3.7 for an etcd of that line, built with Go.
# ETCD_USERS=1 starts each etcd of the real suite with users, so that every client needs a password.

TOOLS := scripts/tools
# Every package, with one set of features, so that the library is compiled once. These features are off by default, and so
# are their tests.
TESTED := --workspace --features tls,discovery,axum,introspection,test-util,metrics
# One set for all that is measured, so that the library is compiled once.
MEASURED := --features discovery,introspection,metrics
# Empty: long runs with what `make test` compiled, for a short look.
PROFILE := --release
# scripts/cargo-tool installs there.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-etcd test-etcds interop fuzz soak simulate bench measure fleet measure-cluster lint generate ci clean-tools

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

demo: ## show a registration through outages, changes by others and a shutdown (needs nothing running)
	$(TOOLS) cargo run --release $(MEASURED) --example demo

test: ## run all tests: unit tests, the fast suite, the suite with a real etcd, the doctests
	$(TOOLS) cargo test --no-fail-fast $(TESTED)
	@echo "make test: every test passed: unit, fast, real etcd, doc"

test-fast: ## run only what needs no etcd and no real time
	$(TOOLS) cargo test $(TESTED) --lib --bins --test fast

soak: ## run random faults for simulated hours: make soak HOURS=1000 SEED=7; HOURS=0 runs one seed again; FLEET=5000: the size of the fleet
	HOURS=$(HOURS) SEED=$(SEED) FLEET=$(FLEET) $(TOOLS) cargo test $(PROFILE) $(TESTED) --test fast -- soak::long fleet::for_a_large_fleet --ignored --nocapture

simulate: ## run the registrar's decisions against a model of etcd: make simulate EVENTS=10000000 SEED=7; EVENTS=0 runs one seed again
	EVENTS=$(EVENTS) SEED=$(SEED) $(TOOLS) cargo test $(PROFILE) $(TESTED) --lib -- simulation::drive::for_many_events --ignored --nocapture

bench: ## measure what the layer costs a request
	$(TOOLS) cargo bench $(MEASURED) --bench layer

measure: ## measure recovery and shutdown with a real etcd (20 minutes); PARTS=passwords,networks: only these; ETCD=3.7: with etcd 3.7
	$(TOOLS) cargo build --release $(MEASURED) --example server
	$(TOOLS) cargo bench $(MEASURED) --bench recovery

fleet: ## restarts and outages under load, compared with a client written by hand (3 minutes); FLEET_SCENARIO=rolling: only this one
	$(TOOLS) cargo build --release $(MEASURED) --example server
	$(TOOLS) cargo bench $(MEASURED) --bench fleet

V := 3.7
test-etcd: ## run the real suite on an etcd built with Go: make test-etcd V=3.7; with user and password: ETCD_USERS=1
	ETCD=$(V) $(TOOLS) cargo build $(TESTED) --examples
	ETCD=$(V) $(TOOLS) cargo test --no-fail-fast $(TESTED) --test real --test cli
	@echo "make test-etcd: every test passed on etcd $(V)$(if $(ETCD_USERS), with user and password)"

test-etcds: ## run it on every line, without and with user and password (each about five minutes; 3.8 is alpha and may fail)
	for line in 3.5 3.6 3.7; do for users in "" 1; do $(MAKE) test-etcd V=$$line ETCD_USERS=$$users || exit 1; done; done
	-$(MAKE) test-etcd V=3.8

interop: ## run our servers and clients against grpc-go, kratos and go-zero (needs Go)
	@command -v go >/dev/null || { echo 'make interop: there is no `go` on the PATH. Install Go 1.26 or later: https://go.dev/dl'; exit 1; }
	cd tests/interop && go build -trimpath -o ../../.tools/interop .
	$(TOOLS) cargo build $(TESTED) --example server
	INTEROP=.tools/interop $(TOOLS) cargo test $(TESTED) --test interop -- --show-output
	@echo "make interop: every test passed: grpc-go, kratos (its etcd registry: a stand-in) and go-zero, each way, also after a loss of data"

ROUNDS := 20
CLUSTER := cluster::
measure-cluster: ## repeat the faults of a three-member cluster, ROUNDS times (20: about twenty minutes); CLUSTER=cluster::hang: one of them
	$(TOOLS) cargo build $(TESTED) --examples
	ROUNDS=$(ROUNDS) $(TOOLS) cargo test $(TESTED) --test real $(CLUSTER) -- --nocapture --test-threads=1

FUZZ_SECONDS := 60
FUZZED := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
# Without a sanitizer: the crate has no `unsafe`, and sanitizers need nightly Rust.
fuzz: ## fuzz the parsers, FUZZ_SECONDS each, two at a time (needs a C++ compiler)
	scripts/cargo-tool fuzz
	$(TOOLS) cargo fuzz build --sanitizer none
	cd fuzz && mkdir -p $(FUZZED:%=corpus/%)
	printf '%s\n' $(FUZZED) | $(TOOLS) xargs -P 2 -I NAME cargo fuzz run --sanitizer none NAME fuzz/corpus/NAME fuzz/seeds/NAME -- \
	  -max_total_time=$(FUZZ_SECONDS) -verbosity=0
	@echo "make fuzz: nothing found: $(FUZZED)"

lint: ## check the formatting, clippy and the documentation's links
	cargo fmt --all --check
	$(TOOLS) cargo clippy --workspace --all-targets --all-features -- -D warnings
	$(TOOLS) cargo clippy --test interop --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(TOOLS) cargo doc --workspace --no-deps --all-features

generate: ## generate again: the code from proto/, the list of the public interface
	UPDATE_GENERATED=1 $(TOOLS) cargo test $(TESTED) --test fast -- generated_code public_api

ci: ## run all that CI runs
	.ci/run

clean-tools: ## remove the tools that were fetched into .tools/
	rm -rf .tools
