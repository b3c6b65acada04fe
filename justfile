# The project's commands. `just` lists them; `just NAME` runs one. CONTRIBUTING.md says when.

_list:
    @just --list --unsorted

# Formatting, lints and spelling: what to run while you work
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    typos

# All tests, or only those that the arguments select (`just test --test engine cli_text`)
test *arguments:
    cargo test --release --workspace {{ arguments }}

# Tests of the engine alone, built without candle
engine *arguments:
    cargo test --release -p repro --no-default-features {{ arguments }}

# Everything that must pass before a change lands
ci:
    .ci/run

# Tests of the CUDA kernels with the address sanitizer; compilation of the kernels for three architectures
kernels:
    .ci/kernels-asan
    benches/gpu/compile.py

# Benchmarks, or only the named ones (`just bench --bench digest`); benches/ has those that compare with other programs
bench *arguments:
    cargo bench --workspace {{ arguments }}

# API documentation, a warning is an error (`just docs --open`)
docs *arguments:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps {{ arguments }}

# Renew the texts of the command line, and the outputs of stages whose VERSION was raised; review the diff before you commit
golden:
    INSTA_UPDATE=always cargo test --release --workspace --test engine --test paper cli_text
    GOLDEN=write cargo test --release --workspace --test golden

# The program packed for machines without Rust, as target/dist/repro-VERSION-TARGET.tar.gz, with features such as `just package cuda`
package features="":
    .ci/package --features "{{ features }}"
