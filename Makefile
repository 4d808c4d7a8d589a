# Everything a newcomer or a developer types. `make` alone explains itself.
# Needs Rust 1.95 or later; what else is missing `make setup` installs, which the others do first.

DOMAIN ?= example.localhost
PGRX_PG_CONFIG_PATH ?= /usr/bin/pg_config
export PGRX_PG_CONFIG_PATH
# Another PostgreSQL that is named to build for is meant for tests and runs, too.
ifneq ($(PGRX_PG_CONFIG_PATH),/usr/bin/pg_config)
export PG_CONFIG ?= $(PGRX_PG_CONFIG_PATH)
endif

# A registry that does not answer for a moment is asked again.
export CARGO_NET_RETRY ?= 10
export PIP_RETRIES ?= 10
export PIP_DEFAULT_TIMEOUT ?= 60
export npm_config_fetch_retries ?= 5

RELEASE = target/release
MAJOR = $(shell $(PGRX_PG_CONFIG_PATH) --version 2>/dev/null | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
# The same packages and features for every target, or they would compile each other's work anew.
CARGO_FLAGS = --release --workspace --locked \
	$(if $(filter-out 15,$(MAJOR)),--no-default-features --features postern-extension/pg$(MAJOR))

.PHONY: help run demo demo-federation test test-package test-majors some-tests lint bench soak record build deb setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

run: build ## build, and serve DOMAIN (example.localhost) with a private PostgreSQL
	@echo
	@echo 'Once it says "serving", type in a second terminal:'
	@echo
	@sed 's/^/    /; s/@DOMAIN@/$(DOMAIN)/g' docs/first-steps.txt
	@echo
	@exec $(RELEASE)/postern serve --embedded --domain $(DOMAIN)

demo: build ## two users, three devices, a group, a removed member: each step told in a line
	@tests/demo.sh

demo-federation: build ## two servers, a user of each: they talk, also while one server is away; each step told in a line
	@.ci/setup demo
	@tests/demo_federation.sh

# Tests in modules `as_root` need root: an ordinary user's run leaves them out, and names them at its end.
test: build ## all tests: SQL tests in the extension, unit tests, end-to-end tests (a few need root, and are left out else)
	@.ci/setup tests
	@status=0; filter='all()'; skip=''; \
	if [ "$$(id -u)" != 0 ]; then filter='not test(/::as_root::/)'; skip='--skip ::as_root::'; fi; \
	pg_extension/tests/run || status=1; \
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(CARGO_FLAGS) --no-fail-fast -E "$$filter" || status=1; \
	else \
		echo 'cargo-nextest is not here (cargo install cargo-nextest --locked): using cargo test'; \
		cargo test $(CARGO_FLAGS) --no-fail-fast -- $$skip || status=1; \
	fi; \
	if [ -n "$$skip" ]; then \
		echo; \
		echo 'Left out, since they need root; "make test" as root runs them:'; \
		sed -n '/^mod as_root {/,/^}/s/^    \(async \)\{0,1\}fn \([a-z0-9_]*\)() {/  \2/p' $$(grep -rl '^mod as_root {' tests/tests); \
	fi; \
	exit $$status

test-package: build ## the packages on an empty Debian: installed, set up, used, upgraded, purged (needs root)
	@.ci/setup packages
	@packaging/trial $(RELEASE)

test-majors: build ## PostgreSQL 16, 17 and 18: the extension's tests and some of the others on each, and upgrades to each
	@.ci/setup tests
	@.ci/test-majors $(MAJORS)

# For .ci/test-majors: end-to-end tests by parts of their names.
some-tests:
	@cargo test --quiet $(CARGO_FLAGS) --no-fail-fast --test clients --test gate --test promises --test system -- $(TESTS)

lint: build ## formatting, compiler and clippy warnings, unused dependencies, SQL (plpgsql_check, pgspot)
	@.ci/setup lint
	@status=0; \
	cargo fmt --all --check || status=1; \
	cargo clippy $(CARGO_FLAGS) --all-targets -- --deny warnings || status=1; \
	.ci/lint-dependencies || status=1; \
	.ci/lint-sql || status=1; \
	tests/bench/without/measure --check || status=1; \
	exit $$status

bench: build ## sends, deliveries, wake-ups and tokens per second, compared with the floor for the same rows
	@.ci/setup bench
	$(RELEASE)/postern-bench --members 2,11,101,1001 --concurrency 1 --rounds 3 --seconds 2
	$(RELEASE)/postern-bench --members 2,11,101,1001 --concurrency 16 --rounds 3 --seconds 2
	$(RELEASE)/postern-bench --tokens
	$(RELEASE)/postern-bench --queues --rounds 3 --seconds 2
	$(RELEASE)/postern-bench --scale 10000 1000000 --rounds 11 --seconds 3
	$(RELEASE)/postern-bench --groups --members 2,10,100,1000,5000 --rounds 11
	$(RELEASE)/postern-bench --identities --rounds 3
	$(RELEASE)/postern-bench --users 10000 1000000 --rounds 5
	$(RELEASE)/postern-bench --pipe --rounds 11
	$(RELEASE)/postern-bench --waiters 10000 --rounds 3
	$(RELEASE)/postern-bench --attack --seconds 4
	$(RELEASE)/postern-bench --scrape 1000000 --rounds 5 --seconds 2
	$(RELEASE)/postern-bench --neighbours 100000 --members 2,10,100,1000 --rounds 3 --seconds 2
	$(RELEASE)/postern-bench --bad-neighbours --rounds 7 --seconds 2
	@tests/bench/without/measure $(RELEASE)

soak: SECONDS ?= 600
soak: build ## two months of messages, upkeep, key rotations and vacuums in SECONDS (600): sizes, memory and logs stay as they are
	$(RELEASE)/postern-bench --soak $(SECONDS)

record: build ## write what this release has in the database to sql/releases: once, when it is tagged
	POSTERN_RECORD_RELEASE=1 cargo test $(CARGO_FLAGS) --test system what_servers_of_the_release_before_call

build: setup ## the programs and the staged extension, in target/release
	cargo build $(CARGO_FLAGS)
	@install -C -D -m 755 $(RELEASE)/libpostern.so $(RELEASE)/extension/$(MAJOR)/postern.so
	@for script in $(RELEASE)/extension/postern--*.sql; do \
		[ -e "pg_extension/$${script##*/}" ] || rm -f "$$script"; done
	@install -C -m 644 pg_extension/postern.control pg_extension/postern--*.sql $(RELEASE)/extension/

deb: build ## Debian packages of the server and of the client, in target/deb
	@.ci/setup packages
	@packaging/deb/build $(RELEASE) target/deb

setup: ## install what is missing (Debian packages); does nothing when all is there
	@.ci/setup

clean: ## delete what was built, and what tests left behind
	cargo clean
	rm -rf /tmp/postern-tests-$$(id -u)
