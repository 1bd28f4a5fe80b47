# Every target is one line; what it calls is a script to read.
.PHONY: run test lint sim cluster bench clients

run: ; cargo build --release --locked -p server && exec ./target/release/flotilla dev
test: clients ; tests/run.sh
lint: ; tests/lint.sh
sim: ; FLOTILLA_SIM_SEED=$(SEED) cargo test --locked -p tests --test sim -- --nocapture
cluster: ; cargo build --release --locked -p server && exec examples/cluster.sh
bench: ; cargo build --release --locked -p server && python3 bench/bench.py
clients: ; tests/clients/install.sh
