//! `cargo xtask fuzz`: builds the targets of `fuzz/` with coverage of branches and comparisons, on any toolchain, and runs
//! each for some time. What libFuzzer finds is left in `fuzz/artifacts`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Target, most bytes of an input, and its dictionary.
const TARGETS: &[(&str, u32, &str)] = &[
    ("gguf", 16_384, "gguf"),
    ("vocabulary", 2_048, "gguf"),
    ("encode", 4_096, "text"),
    ("decode", 2_048, ""),
    ("template", 4_096, "template"),
    ("capture", 40_960, "json"),
    ("pipeline_cache", 512, "cache"),
    ("results", 4_096, "json"),
];

/// As cargo-fuzz does without a sanitizer: the parsers are safe Rust, so that what is looked for are panics, overflows,
/// hangs and memory.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Run the fuzz targets, each for some time.
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Targets; all of them without one.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Seconds that one input may take.
    #[arg(long, default_value_t = 10)]
    timeout: u32,
    /// Only build.
    #[arg(long)]
    build: bool,
}

fn host() -> anyhow::Result<String> {
    let out = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}

/// Builds the chosen targets and returns the folder of their programs.
fn build(root: &Path, chosen: &[&(&str, u32, &str)]) -> anyhow::Result<PathBuf> {
    let host = host()?;
    let folder = root.join("target/fuzz");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"));
    // With a target, build scripts and macros are not instrumented.
    cargo.args(["--target", &host, "--target-dir"]).arg(&folder).env("RUSTFLAGS", INSTRUMENTED);
    for (name, ..) in chosen {
        cargo.args(["--bin", name]);
        if *name == "results" {
            cargo.args(["--features", "results"]);
        }
    }
    if !cargo.status().context("cannot run cargo")?.success() {
        bail!("the fuzz targets do not build");
    }
    Ok(folder.join(host).join("release"))
}

/// Runs a target; returns how many inputs it was given.
fn fuzz(root: &Path, programs: &Path, args: &FuzzArgs, target: &(&str, u32, &str)) -> anyhow::Result<u64> {
    let (name, longest, dictionary) = target;
    let corpus = root.join("fuzz/corpus").join(name);
    let artifacts = root.join("fuzz/artifacts").join(name);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut program = Command::new(programs.join(name));
    program.arg(&corpus);
    let seeds = root.join("fuzz/seeds").join(name);
    if seeds.is_dir() {
        program.arg(seeds);
    }
    if !dictionary.is_empty() {
        program.arg(format!("-dict={}", root.join("fuzz/dictionaries").join(dictionary).display()));
    }
    program.arg(format!("-max_len={longest}"));
    program.arg(format!("-max_total_time={}", args.seconds));
    program.arg(format!("-timeout={}", args.timeout));
    program.arg(format!("-artifact_prefix={}/", artifacts.display()));
    program.args(["-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"]);
    let out = program.output().with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        let last: Vec<&str> = said.lines().rev().take(40).collect();
        bail!("{name}: {}\n{}", out.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    runs.and_then(|runs| runs.trim().parse().ok()).with_context(|| format!("{name} tells no number of runs"))
}

/// Builds and runs.
pub(crate) fn run(args: FuzzArgs) -> anyhow::Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().context("no project folder")?;
    let all: Vec<&str> = TARGETS.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = args.targets.iter().find(|name| !all.contains(&name.as_str())) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let wanted = |name: &str| args.targets.is_empty() || args.targets.iter().any(|target| target == name);
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, ..)| wanted(name)).collect();
    let programs = build(&root, &chosen)?;
    if args.build {
        return Ok(());
    }
    let mut found = Vec::new();
    for target in chosen {
        match fuzz(&root, &programs, &args, target) {
            Ok(runs) => println!("{:<16} {runs:>12} runs in {} s", target.0, args.seconds),
            Err(error) => found.push(format!("{error:#}")),
        }
    }
    if !found.is_empty() {
        bail!(
            "{} targets found something; the inputs are in fuzz/artifacts\n{}",
            found.len(),
            found.join("\n")
        );
    }
    Ok(())
}
