# Every target is one line; what it calls is a script to read.
.PHONY: run test lint sim sim-cluster prove prove-sim prove-explore prove-moves prove-fuzz prove-libfuzzer prove-mutants prove-differential prove-crash prove-power prove-cluster prove-kills cluster exactly-once bench bench-failover bench-raft bench-apply bench-log bench-state bench-disk bench-move bench-slot bench-lanes clients

run: ; cargo build --release --locked -p server && exec ./target/release/flotilla dev
test: clients ; tests/run.sh
lint: ; tests/lint.sh
sim: ; FLOTILLA_SIM_SEED=$(SEED) FLOTILLA_SIM_FAULTS=$(FAULTS) FLOTILLA_SIM_EVENTS=$(EVENTS) cargo test --locked -p tests --test sim -- --nocapture
sim-cluster: ; FLOTILLA_CLUSTER_SEED=$(SEED) cargo test --locked -p tests --test cluster_sim faults -- --nocapture
prove: prove-sim prove-explore prove-moves prove-fuzz prove-mutants prove-differential prove-crash prove-power prove-cluster prove-kills prove-libfuzzer
SEEDS ?= 10000
STATES ?= 1000000
MOVE_STATES ?= 100000
IMAGES ?= 500000
CUTS ?= 200
FUZZ_SECONDS ?= 600
KILLS_SECONDS ?= 600
prove-sim: ; FLOTILLA_SIM_SEEDS=$(SEEDS) cargo test --release --locked -p tests --test sim -- --nocapture
prove-explore: ; FLOTILLA_STATES=$(STATES) cargo test --release --locked -p tests --test explore -- --nocapture --test-threads 1
prove-moves: ; FLOTILLA_STATES=$(MOVE_STATES) cargo test --release --locked -p shard-core model::g05
prove-fuzz: ; FLOTILLA_FUZZ=100000 cargo test --release --locked -p tests --test fuzz_step -- --nocapture
prove-libfuzzer: ; cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none step -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192
prove-mutants: ; FLOTILLA_MUTANTS=all cargo test --release --locked -p tests --features mutants --test mutants -- --nocapture
prove-differential: ; FLOTILLA_DIFFERENTIAL_SEEDS=$(SEEDS) cargo test --release --locked -p tests --test differential -- --nocapture
prove-crash: ; FLOTILLA_CRASH_IMAGES=$(IMAGES) FLOTILLA_LOG_ROUNDS=100000 cargo test --release --locked -p server --lib --test log_crash --test state_crash --test disk_crash -- --nocapture
prove-power: ; FLOTILLA_POWER_CUTS=$(CUTS) cargo test --release --locked -p tests --test power_cut -- --nocapture
prove-cluster: ; FLOTILLA_CLUSTER_SEEDS=$(SEEDS) cargo test --release --locked -p tests --test cluster_sim -- --nocapture
prove-kills: ; cargo build --release --locked -p server && FLOTILLA_KILLS_SECONDS=$(KILLS_SECONDS) cargo test --release --locked -p tests --test exactly_once -- --nocapture --test-threads=1
cluster: ; cargo build --release --locked -p server && exec examples/cluster.sh
CLIENT ?= redis-py
WORDS ?= 5000
exactly-once: clients ; cargo build --release --locked -p server -p examples --bins && exec examples/exactly_once.sh $(CLIENT) $(WORDS)
bench: ; cargo build --release --locked -p server && python3 bench/bench.py && $(MAKE) bench-lanes
bench-failover: ; cargo build --release --locked -p server && python3 bench/failover.py
bench-raft: ; cargo bench --locked -p raft-core --bench proposals
bench-apply: ; cargo bench --locked -p server --bench apply
bench-log: ; cargo bench --locked -p server --bench log
bench-state: ; cargo bench --locked -p server --bench state
bench-disk: ; cargo build --release --locked -p server && python3 bench/disk.py
bench-move: ; cargo build --release --locked -p server && python3 bench/move.py --kills --flood
bench-slot: ; cargo build --release --locked -p server && python3 bench/slot.py
bench-lanes: ; cargo build --release --locked -p server && cargo build --release --locked -p server --features without-lanes --target-dir target/without-lanes && python3 bench/lanes.py
clients: ; tests/clients/install.sh
