//! `cargo xtask shaders`: from the table of kernels to checked-in SPIR-V, interfaces and manifest.

#[cfg(feature = "linked-shaderc")]
mod build;
#[cfg(feature = "linked-shaderc")]
mod compile;
mod plan;
#[cfg(feature = "linked-shaderc")]
mod reflect;
#[cfg(all(test, feature = "linked-shaderc"))]
mod tests;

#[allow(dead_code, unreachable_pub)]
#[path = "../../../shaders/interface.rs"]
mod interface;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../shaders/src/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use interface::{Interfaces, Made, Manifest};
use plan::{Module, sha256};

/// The packaged shaders crate stays below this.
const MAX_BYTES: u64 = 8 << 20;

/// Options of `cargo xtask shaders`.
#[derive(clap::Args)]
pub(crate) struct ShadersArgs {
    /// Compile only modules whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Compile modules whose sources have not changed, too.
    #[arg(long)]
    all: bool,
    /// Compile nothing: list the checked-in modules that do not match their sources.
    #[arg(long, conflicts_with_all = ["only", "all", "verify", "probe"])]
    check: bool,
    /// Compile everything and compare with what is checked in, byte by byte; write nothing.
    #[arg(long, conflicts_with_all = ["only", "all", "probe"])]
    verify: bool,
    /// Compile one shader that need not be in the table, print its interface, and write nothing.
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// An axis value for --probe, for example FORMAT=q4_k.
    #[arg(long, value_name = "AXIS=VALUE", requires = "probe")]
    axis: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: ShadersArgs) -> Result<()> {
    let root = std::env::current_dir().context("cannot find the current directory")?;
    let shaders =
        root.ancestors().map(|dir| dir.join("shaders")).find(|dir| dir.join("src/table.rs").is_file());
    let shaders = shaders.with_context(|| format!("{} is not in a checkout of vkllm", root.display()))?;
    if args.check {
        return check(&shaders);
    }
    compile(&shaders, &args)
}

#[cfg(feature = "linked-shaderc")]
fn compile(shaders: &Path, args: &ShadersArgs) -> Result<()> {
    if let Some(file) = &args.probe {
        return build::probe(file, &args.axis, shaders);
    }
    if args.verify { build::verify(shaders) } else { build::build(shaders, args.only.as_deref(), args.all) }
}

#[cfg(not(feature = "linked-shaderc"))]
fn compile(_: &Path, args: &ShadersArgs) -> Result<()> {
    let ShadersArgs { only: _, all: _, check: _, verify: _, probe: _, axis: _ } = args;
    anyhow::bail!(
        "this build of the tools has no shader compiler. Only `--check` works without one. Add the feature \
         `compile-shaders` (`cargo run -p vkllm-tools --features compile-shaders -- shaders`), which builds shaderc \
         from source once, or `linked-shaderc` with SHADERC_LIB_DIR naming a folder with libshaderc_combined.a"
    )
}

/// What is checked in.
struct Written {
    dir: PathBuf,
    interfaces: Interfaces,
    manifest: Manifest,
}

impl Written {
    fn read(shaders: &Path) -> Result<Self> {
        let dir = shaders.join("spirv");
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        let interfaces = read("interfaces.json").map(|text| serde_json::from_str(&text));
        let manifest = read("manifest.json").map(|text| serde_json::from_str(&text));
        Ok(Self {
            interfaces: interfaces
                .transpose()
                .context("spirv/interfaces.json is damaged")?
                .unwrap_or_default(),
            manifest: manifest.transpose().context("spirv/manifest.json is damaged")?.unwrap_or_default(),
            dir,
        })
    }

    fn module_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.spv"))
    }

    /// Why a module of the table does not match what is checked in, or `None` when it does.
    fn stale(&self, module: &Module, input: &str) -> Option<&'static str> {
        let Some(made) = self.manifest.modules.get(&module.name) else {
            return Some("is not in the manifest");
        };
        if made.input != input {
            return Some("was made from other sources, options or compilers");
        }
        if !self.interfaces.kernels.contains_key(&module.name) {
            return Some("has no interface");
        }
        match fs::read(self.module_path(&module.name)) {
            Err(_) => Some("has no .spv file"),
            Ok(bytes) if sha256(&bytes) != made.spirv => Some("differs from the hash of its .spv file"),
            Ok(_) => None,
        }
    }

    /// Names of the `.spv` files that are there.
    fn files(&self) -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".spv").map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

/// Hash over all modules, which names the set in `--version` and in measurements.
fn set_hash(modules: &BTreeMap<String, Made>) -> String {
    let lines: String = modules.iter().map(|(name, made)| format!("{name} {}\n", made.spirv)).collect();
    sha256(lines.as_bytes())[..12].to_owned()
}

/// Values fixed by rows of the table must be specialisation constants of their kernels.
fn check_rows(interfaces: &Interfaces) -> Vec<String> {
    let mut faults = Vec::new();
    for row in table::ROWS {
        let stem = row.file.rsplit_once('.').map_or(row.file, |(stem, _)| stem);
        let of_row =
            |name: &str| name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        for (name, kernel) in interfaces.kernels.iter().filter(|(name, _)| of_row(name)) {
            for (spec, _) in
                row.spec.iter().filter(|(spec, _)| kernel.specs.iter().all(|known| known.name != *spec))
            {
                faults.push(format!(
                    "table: a row of {} fixes {spec}, which {name} does not declare",
                    row.file
                ));
            }
        }
    }
    faults
}

fn check(shaders: &Path) -> Result<()> {
    let written = Written::read(shaders)?;
    let modules = plan::modules()?;
    let mut faults = Vec::new();
    for module in modules.values() {
        match module.input_hash(shaders) {
            Ok(input) => {
                faults.extend(written.stale(module, &input).map(|why| format!("{} {why}", module.name)))
            }
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    let known = written.manifest.modules.keys().chain(written.interfaces.kernels.keys());
    let mut strays: Vec<String> = known.cloned().chain(written.files()?).collect();
    strays.retain(|name| !modules.contains_key(name));
    strays.sort();
    strays.dedup();
    faults.extend(strays.iter().map(|name| format!("{name} is not in the table")));
    if written.manifest.hash != set_hash(&written.manifest.modules) {
        faults.push("manifest.json does not carry the hash of its modules".to_owned());
    }
    faults.extend(check_rows(&written.interfaces));
    let bytes = size(shaders)?;
    if bytes > MAX_BYTES {
        faults.push(format!("the shaders crate has {bytes} bytes; at most {MAX_BYTES} are allowed"));
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    ensure!(faults.is_empty(), "{} faults in shaders/spirv; run `cargo xtask shaders`", faults.len());
    println!("{} modules match their sources; {} KiB in all", modules.len(), bytes / 1024);
    Ok(())
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { size(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}
