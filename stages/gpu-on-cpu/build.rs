//! Compiles the kernels of the stages for the CPU, with a table of their names; see the crate's comment.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const KERNELS: &str = "../src/nn/gpu/kernels";
const COMPILER: &str = "gpu-on-cpu compiles the CUDA kernels for the CPU and needs a C++17 compiler: install one (Debian and \
    Ubuntu: `apt install g++`; Fedora: `dnf install gcc-c++`; macOS: `xcode-select --install`), or name it in CXX";
/// Kernels that wait for ever.
const WRONG: &str = "cpp/wrong.cu";
/// Stands where the preprocessor found `__global__`.
const MARK: &str = "GPU_ON_CPU_KERNEL";

/// A file compiled once.
struct Unit {
    file: PathBuf,
    /// Follows the names of its kernels.
    suffix: String,
    /// What `__CUDA_ARCH__` is.
    architecture: u32,
    /// The barrier that is left out, counted in common.cuh and the file.
    without_barrier: Option<usize>,
}

fn main() {
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rerun-if-changed=cpp");
    println!("cargo::rerun-if-env-changed=GPU_ON_CPU_ASAN");
    let common = fs::read_to_string(Path::new(KERNELS).join("common.cuh")).expect("common.cuh is there");
    let mut files: Vec<PathBuf> = fs::read_dir(KERNELS)
        .expect("the folder of kernels is there")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    files.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder"));
    let mut build = builder();
    if Command::new(build.get_compiler().path()).arg("--version").output().is_err() {
        fail(COMPILER);
    }
    let mut names = Vec::new();
    for (number, unit) in units(&files, &common).iter().enumerate() {
        let path = out.join(format!("unit{number}.cpp"));
        let (text, kernels) = source(unit, &common, &out, number);
        write(&path, &text);
        build.file(path);
        names.extend((0..kernels).map(|kernel| (number, kernel)));
    }
    let table = out.join("table.cpp");
    write(&table, &table_of(&names));
    build.file(table).file("cpp/run.cpp");
    if let Err(error) = build.try_compile("gpu_on_cpu") {
        fail(&format!("the kernels do not compile for the CPU ({COMPILER}): {error}"));
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={}", message.replace('\n', " "));
    std::process::exit(1)
}

fn builder() -> cc::Build {
    let mut build = cc::Build::new();
    // No product and sum become one operation: results are then the same on every CPU.
    build.cpp(true).std("c++17").opt_level(2).include("cpp").flag("-ffp-contract=off");
    build.flag_if_supported("-Wno-unknown-pragmas").flag_if_supported("-Wno-unused-function");
    if env::var_os("GPU_ON_CPU_ASAN").is_some_and(|value| value != "0") {
        build.flag("-fsanitize=address,bounds").flag("-fno-omit-frame-pointer").debug(true);
        println!("cargo::rustc-link-lib=asan");
        println!("cargo::rustc-link-lib=ubsan");
    }
    build
}

/// Each file for a current GPU; the files with tensor cores for a GPU without them too; and, for the test that a missing
/// barrier shows, each file with one of its barriers left out.
fn units(files: &[PathBuf], common: &str) -> Vec<Unit> {
    let mut units = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a kernel file can be read");
        let unit = |suffix: String, architecture, without_barrier| Unit {
            file: file.clone(),
            suffix,
            architecture,
            without_barrier,
        };
        units.push(unit(String::new(), 900, None));
        if text.contains("__CUDA_ARCH__") {
            units.push(unit("@sm70".to_owned(), 700, None));
        }
        let (of_common, of_file) = (barriers(common).count(), barriers(&text).count());
        // The one barrier of common.cuh is that of each_column_sum.
        let first = if text.contains("each_column_sum") { 0 } else { of_common };
        for barrier in first..of_common + of_file {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            units.push(unit(format!("@{name}-without-barrier-{barrier}"), 900, Some(barrier)));
        }
    }
    units.push(Unit {
        file: WRONG.into(),
        suffix: "@wrong".to_owned(),
        architecture: 900,
        without_barrier: None,
    });
    units
}

fn barriers(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices("__syncthreads();").map(|(at, _)| at)
}

/// The text of a unit for the C++ compiler, and its number of kernels.
fn source(unit: &Unit, common: &str, out: &Path, number: usize) -> (String, usize) {
    let file = fs::canonicalize(&unit.file).expect("a kernel file has a path");
    let text = fs::read_to_string(&file).expect("a kernel file can be read");
    let mut text = format!("#line 1 \"common.cuh\"\n{common}\n#line 1 \"{}\"\n{text}", file.display());
    if let Some(barrier) = unit.without_barrier {
        let at = barriers(&text).nth(barrier).expect("the barrier was counted");
        text.replace_range(at..at + "__syncthreads".len(), "(void)0, (void)");
        text = text.replacen("(void)0, (void)()", "(void)0", 1);
    }
    let kernels = kernels_of(&text, out, number);
    let mut whole =
        format!("#define __CUDA_ARCH__ {}\n#include \"cuda_on_cpu.h\"\nnamespace {{\n", unit.architecture);
    // The names are not exported: the same kernel may be there several times.
    whole.push_str(&text.replace("extern \"C\" ", ""));
    write!(whole, "\n}}\n#line 1 \"table\"\nnamespace gpu_on_cpu {{\nextern const Kernel kernels{number}[];\nconst Kernel kernels{number}[] = {{\n").unwrap();
    for (name, bound) in &kernels {
        writeln!(whole, "    Signature<{name}>::kernel(\"{name}{}\", {bound}),", unit.suffix).unwrap();
    }
    whole.push_str("};\n}\n");
    (whole, kernels.len())
}

/// The kernels in `text`, with the threads of their largest block: found by the preprocessor, because macros make some.
fn kernels_of(text: &str, out: &Path, number: usize) -> Vec<(String, u32)> {
    let path = out.join(format!("scan{number}.cpp"));
    write(&path, text);
    let mut scan = builder();
    scan.define("__global__", MARK).define("__launch_bounds__(threads)", "threads").file(path);
    let expanded = scan.try_expand().unwrap_or_else(|error| fail(&format!("{COMPILER}: {error}")));
    let expanded = String::from_utf8_lossy(&expanded).into_owned();
    let mut kernels = Vec::new();
    for after in expanded.split(MARK).skip(1) {
        // `void 256 name(`
        let head = after.split('(').next().unwrap_or_default();
        let words: Vec<&str> = head.split_whitespace().collect();
        let &["void", bound, name] = words.as_slice() else {
            fail(&format!("no kernel with launch bounds: `{head}`"))
        };
        kernels
            .push((name.to_owned(), bound.parse().unwrap_or_else(|_| fail(&format!("no bound: `{head}`")))));
    }
    kernels
}

fn table_of(kernels: &[(usize, usize)]) -> String {
    let mut text = "#include \"cuda_on_cpu.h\"\nnamespace gpu_on_cpu {\n".to_owned();
    for (unit, _) in kernels.iter().filter(|(_, kernel)| *kernel == 0) {
        writeln!(text, "extern const Kernel kernels{unit}[];").unwrap();
    }
    text.push_str("extern const Kernel *const kernels[];\nextern const size_t kernels_count;\nconst Kernel *const kernels[] = {\n");
    for (unit, kernel) in kernels {
        writeln!(text, "    &kernels{unit}[{kernel}],").unwrap();
    }
    write!(text, "}};\nconst size_t kernels_count = {};\n}}\n", kernels.len()).unwrap();
    text
}

/// Writes a file unless it has this text already, so that nothing is compiled twice.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return;
    }
    fs::write(path, text).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
}
