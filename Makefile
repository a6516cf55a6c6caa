# `make help` lists the targets; each is a command that can be typed by hand.

CARGO ?= cargo
SEED ?=

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

demo: ## two throw-away servers and a pipeline between them; STAY=1 keeps them
	@scripts/install demo
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo$(if $(STAY), --stay)

demo-snapshot: ## a replica that is replaced three times while it is read; STAY=1 keeps it
	@scripts/install demo
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo snapshot$(if $(STAY), --stay)

demo-archive: ## production, a backup machine and two laptops; STAY=1 keeps them
	@scripts/install demo-archive
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo archive$(if $(STAY), --stay)

demo-redis: ## chat sessions of a Redis server that become rows; STAY=1 keeps them
	@scripts/install demo-redis
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs'; exit 1; }
	$(CARGO) build --locked
	target/debug/pgdiode demo redis$(if $(STAY), --stay)

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
