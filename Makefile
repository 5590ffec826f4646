# What a newcomer runs. Each target installs what it needs and can be run again.

CARGO ?= cargo
PREFIX ?= /usr/local
TESTKIT = $(CARGO) run --quiet --release --locked -p testkit --
DENY = target/tools/bin/cargo-deny
SHIM = target/release/containerd-shim-hybrid-v1

.PHONY: packages build demo test smoke-vm test-vm bench lint deny install

# Debian packages: the seccomp library for the shim, compilers for the guests.
packages:
	$(TESTKIT) install

# The one release build that demo, tests and benches share.
build: packages
	$(CARGO) build --release --locked --workspace --all-targets

# The main job: a wasm and a Linux image through the shim on a private containerd.
demo: packages
	$(CARGO) build --release --locked -p shim
	$(TESTKIT) demo

# All tests: the crates' own, then the real clients against the real shim.
test: build
	$(TESTKIT) fetch
	$(TESTKIT) images
	$(TESTKIT) clients
	$(CARGO) test --release --locked --workspace --no-fail-fast

# The shim on cgroup version 2 with systemd and Landlock, in a virtual machine: what differs there, in a few minutes.
smoke-vm: packages
	$(CARGO) build --release --locked -p shim
	$(TESTKIT) vm --smoke

# The same and the end-to-end tests in it. Its processors are emulated: an hour.
test-vm: build
	$(TESTKIT) vm

# Tasks per second, beside containerd's own runc shim in the same run.
bench: build
	$(TESTKIT) fetch
	$(CARGO) run --quiet --release --locked -p benches

lint: packages deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

# Who may name which library, and the oldest engine allowed: .deny.toml.
deny: $(DENY)
	$(DENY) --all-features --config .deny.toml check bans licenses sources

$(DENY):
	$(CARGO) install --locked --quiet --root target/tools cargo-deny@0.20.2

install: packages
	$(CARGO) build --release --locked -p shim
	install -D -m 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/containerd-shim-hybrid-v1
