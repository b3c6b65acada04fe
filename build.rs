//! Links the program at a fixed address on Linux. At a random one the loader has to write 1.3 MB of addresses before `main`,
//! a third of what an up-to-date `repro make` takes: 1.0 of 2.8 ms for `repro --version`, 300 of 570 page faults, and 2 MB of the
//! file (benches/results/2026-11-30-build.md). Libraries, heap and stacks stay at random addresses.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
