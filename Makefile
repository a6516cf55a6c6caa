# `make help` lists the targets; each is a command that can be typed by hand.

CARGO ?= cargo
SEED ?=
# In a terminal a demo stays until Enter is pressed; STAY=1 has it stay anywhere, NO_CONSOLE=1 leaves its console out.
DEMO_OPTIONS = $(if $(STAY), --stay)$(if $(NO_CONSOLE), --no-console)

# What has not been built yet is not offered.
HIDDEN := $(if $(wildcard scripts/bench),,bench) $(if $(wildcard src/demo.rs src/demo/mod.rs),,demo)

.DEFAULT_GOAL := help
.PHONY: help build install test chaos bench demo demo-snapshot demo-archive demo-redis fmt lint check ci clean

help: ## this list
	@awk -F ':.*## ' -v hidden=' $(HIDDEN) ' \
	  '/^[a-z-]+:.*## / && !index(hidden, " " $$1 " ") { printf "  %-13s %s\n", $$1, $$2 }' Makefile

build: ## the binary, in target/debug
	$(CARGO) build --locked

install: ## the PostgreSQL servers that the tests start
	scripts/install

test: install ## all tests, against real servers
	$(CARGO) test --locked

chaos: install ## the long random tests; SEED=n repeats one
	$(if $(SEED),PGDIODE_SEED=$(SEED) )$(CARGO) test --locked --test it chaos -- --ignored --nocapture

bench: ## copy, catch-up, lag and replacement, measured against others, into docs/benchmarks.md
	scripts/bench

demo: ## two throw-away servers, a pipeline between them, and its console; NO_CONSOLE=1 leaves that out
	@scripts/install demo
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo$(DEMO_OPTIONS)

demo-snapshot: ## a replica that is replaced three times while it is read
	@scripts/install demo
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo snapshot$(DEMO_OPTIONS)

demo-archive: ## production, a backup machine and two laptops
	@scripts/install demo-archive
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo archive$(DEMO_OPTIONS)

demo-redis: ## chat sessions of a Redis server that become rows
	@scripts/install demo-redis
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo redis$(DEMO_OPTIONS)

fmt: ## formats the code
	$(CARGO) fmt

lint: ## formatting, clippy, and what dependencies may be
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	scripts/deny

check: lint test ## what must pass before a change is proposed

ci: ## the same, with each stage's time
	.ci/run

clean: ## removes target/, not the servers in /var/cache/pgdiode
	$(CARGO) clean
