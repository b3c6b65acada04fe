//! Compiles the kernels of the stages for the CPU, with a table of their names; see the crate's comment.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

const KERNELS: &str = "../src/nn/gpu/kernels";
const NO_COMPILER: &str = "gpu-on-cpu compiles the CUDA kernels for the CPU and needs a C++17 compiler: install one (Debian and \
    Ubuntu: `apt install g++`; Fedora: `dnf install gcc-c++`; macOS: `xcode-select --install`), or name it in CXX";
/// What the preprocessor puts for `__global__`.
const MARK: &str = "GPU_ON_CPU_KERNEL";

const BARRIER: &str = "__syncthreads();";

/// A text that is compiled once.
struct Unit {
    /// common.cuh and a file.
    text: String,
    /// Follows the names of its kernels.
    suffix: String,
    /// What `__CUDA_ARCH__` is.
    architecture: u32,
    /// Barriers of the text that tests leave out, by number, and what then follows the names of the kernels.
    left_out: Vec<(usize, String)>,
}

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rerun-if-changed=cpp");
    println!("cargo::rerun-if-env-changed=GPU_ON_CPU_ASAN");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={}", message.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let mut build = compiler();
    if !Command::new(build.get_compiler().path())
        .arg("--version")
        .output()
        .is_ok_and(|run| run.status.success())
    {
        return Err(NO_COMPILER.to_owned());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no folder")?);
    let mut tables = Vec::new();
    for (number, unit) in units()?.iter().enumerate() {
        let path = out.join(format!("unit{number}.cpp"));
        let (text, kernels) = unit.source(number, &out)?;
        write(&path, &text)?;
        build.file(path);
        tables.push(kernels);
    }
    let table = out.join("table.cpp");
    write(&table, &table_of(&tables))?;
    build.file(table).file("cpp/run.cpp");
    build
        .try_compile("gpu_on_cpu")
        .map_err(|error| format!("the kernels do not compile for the CPU: {error}"))
}

fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    // No product and sum become one operation: results are then the same on every CPU.
    build.cpp(true).std("c++17").opt_level(2).include("cpp").flag("-ffp-contract=off");
    build.flag_if_supported("-Wno-unknown-pragmas").flag_if_supported("-Wno-unused-function");
    let with_sanitizer = env::var_os("GPU_ON_CPU_ASAN").is_some();
    build.debug(with_sanitizer);
    if with_sanitizer {
        build.flag("-fsanitize=address,bounds");
        println!("cargo::rustc-link-lib=asan");
        println!("cargo::rustc-link-lib=ubsan");
    }
    build
}

/// Each file for a current GPU, and the files that multiply on tensor cores for a GPU without them too. For the test that a missing
/// barrier shows, each kernel of the first is also there with one of its file's barriers left out.
fn units() -> Result<Vec<Unit>, String> {
    let common = read(&Path::new(KERNELS).join("common.cuh"))?;
    let entries = fs::read_dir(KERNELS).map_err(|error| format!("{KERNELS}: {error}"))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    files.sort();
    let mut units = Vec::new();
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let text = read(file)?;
        let whole =
            format!("#line 1 \"{}/common.cuh\"\n{common}\n#line 1 \"{}\"\n{text}", KERNELS, file.display());
        if text.contains("multiply_high(") {
            let (text, suffix) = (whole.clone(), "@sm70".to_owned());
            units.push(Unit { text, suffix, architecture: 700, left_out: Vec::new() });
        }
        // A barrier of common.cuh counts where the file calls its function.
        let of_common = common.matches(BARRIER).count();
        let first = if text.contains("each_column_sum") { 0 } else { of_common };
        let barriers = first..whole.matches(BARRIER).count();
        let left_out = barriers.map(|number| (number, format!("@{name}-without-barrier-{number}"))).collect();
        units.push(Unit { text: whole, suffix: String::new(), architecture: 900, left_out });
    }
    units.push(Unit {
        text: common + &read(Path::new("cpp/wrong.cu"))?,
        suffix: "@wrong".to_owned(),
        architecture: 900,
        left_out: Vec::new(),
    });
    Ok(units)
}

impl Unit {
    /// The text for the C++ compiler, and its number of kernels.
    fn source(&self, number: usize, out: &Path) -> Result<(String, usize), String> {
        let Self { text, suffix, architecture, left_out } = self;
        let kernels = self.kernels(number, out)?;
        let variants = std::iter::once((suffix, "NO_BARRIER".to_owned()));
        let variants = variants.chain(left_out.iter().map(|(barrier, suffix)| (suffix, barrier.to_string())));
        let rows: Vec<String> = variants
            .flat_map(|(suffix, barrier)| {
                kernels.iter().map(move |(name, bound)| {
                    format!("    Signature<{name}>::kernel(\"{name}{suffix}\", {bound}, {barrier}),\n")
                })
            })
            .collect();
        let (count, rows) = (rows.len(), rows.concat());
        let mut parts = text.split(BARRIER);
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (number, part) in parts.enumerate() {
            text += &format!("gpu_on_cpu::wait_at_barrier({number});{part}");
        }
        // The names are not exported: a kernel may be there several times.
        let text = text.replace("extern \"C\" ", "");
        let text = format!(
            "#define __CUDA_ARCH__ {architecture}\n#include \"cuda_on_cpu.h\"\nnamespace {{\n{text}\n}}\n\
             #line 1 \"table\"\nnamespace gpu_on_cpu {{\nextern const Kernel kernels{number}[];\n\
             const Kernel kernels{number}[] = {{\n{rows}}};\n}}\n"
        );
        Ok((text, count))
    }

    /// The kernels, with the threads of their largest block: found by the preprocessor, because macros make some.
    fn kernels(&self, number: usize, out: &Path) -> Result<Vec<(String, u32)>, String> {
        let path = out.join(format!("scan{number}.cpp"));
        write(&path, &self.text)?;
        let mut scan = compiler();
        scan.define("__global__", MARK).define("__launch_bounds__(...)", "__VA_ARGS__").file(path);
        let expanded = scan.try_expand().map_err(|error| format!("the kernels cannot be read: {error}"))?;
        let expanded = String::from_utf8_lossy(&expanded).into_owned();
        let kernel = |after: &str| {
            // `void 256 name(` or, with a number of blocks, `void 128, 6 name(`
            let head = after.split('(').next().unwrap_or_default();
            let words: Vec<&str> = head.split([' ', ',', '\n']).filter(|word| !word.is_empty()).collect();
            let bound = words.get(1).and_then(|bound| bound.parse().ok());
            let name = words.last().copied().unwrap_or_default().to_owned();
            bound
                .map(|bound| (name, bound))
                .ok_or_else(|| format!("a kernel without launch bounds: `{head}`"))
        };
        expanded.split(MARK).skip(1).map(kernel).collect()
    }
}

/// The table of all kernels, from each unit's number of them.
fn table_of(units: &[usize]) -> String {
    let (mut arrays, mut rows) = (String::new(), String::new());
    for (unit, kernels) in units.iter().enumerate() {
        arrays += &format!("extern const Kernel kernels{unit}[];\n");
        rows.extend((0..*kernels).map(|kernel| format!("    &kernels{unit}[{kernel}],\n")));
    }
    let count: usize = units.iter().sum();
    format!(
        "#include \"cuda_on_cpu.h\"\nnamespace gpu_on_cpu {{\n{arrays}extern const Kernel *const kernels[];\n\
         extern const size_t kernels_count;\nconst Kernel *const kernels[] = {{\n{rows}}};\n\
         const size_t kernels_count = {count};\n}}\n"
    )
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
