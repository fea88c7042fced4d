//! Compiles what changed, checks that the kernels of an operation are interchangeable, and writes the results.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use super::compile::compile;
use super::interface::{Interfaces, Kernel, Made, Manifest};
use super::plan::{self, Module, sha256, with};
use super::reflect::reflect;
use super::{MAX_BYTES, Written, check_rows, set_hash, size};

/// One freshly compiled module.
struct Fresh {
    kernel: Kernel,
    spirv: Vec<u8>,
    made: Made,
}

fn compile_one(compiler: &shaderc::Compiler, shaders: &Path, module: &Module) -> Result<Fresh> {
    let input = module.input_hash(shaders)?;
    let compiled =
        compile(compiler, shaders, module).with_context(|| format!("{} does not compile", module.name))?;
    if !compiled.warnings.is_empty() {
        eprint!("{}", compiled.warnings);
    }
    let kernel = reflect(&compiled).with_context(|| format!("{} breaks the shader contract", module.name))?;
    let spirv: Vec<u8> = compiled.shipped.iter().flat_map(|word| word.to_le_bytes()).collect();
    let made = Made { input, spirv: sha256(&spirv) };
    Ok(Fresh { kernel, spirv, made })
}

/// Compiles the modules that are stale, or all of them, and writes what is right.
pub(super) fn build(shaders: &Path, only: Option<&str>, all: bool) -> Result<()> {
    let compiler = shaderc::Compiler::new().context("shaderc does not start")?;
    let mut written = Written::read(shaders)?;
    let modules = plan::modules()?;
    let mut faults = Vec::new();
    let mut fresh = BTreeMap::new();
    for module in modules.values().filter(|module| only.is_none_or(|part| module.name.contains(part))) {
        let result = module.input_hash(shaders).and_then(|input| {
            let stale = all || written.stale(module, &input).is_some();
            stale.then(|| compile_one(&compiler, shaders, module)).transpose()
        });
        match result {
            Ok(Some(made)) => {
                fresh.insert(module.name.clone(), made);
            }
            Ok(None) => {}
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    written.interfaces.kernels.retain(|name, _| modules.contains_key(name));
    written.manifest.modules.retain(|name, _| modules.contains_key(name));

    // An operation is written whole or not at all, so that what is checked in always fits together.
    let mut merged = written.interfaces.kernels.clone();
    merged.extend(fresh.iter().map(|(name, fresh)| (name.clone(), fresh.kernel.clone())));
    let mut refused = BTreeSet::new();
    for (op, fault) in disagreements(&modules, &merged) {
        faults.push(fault);
        refused.insert(op);
    }
    let refused_by = |name: &str| modules.get(name).is_none_or(|module| refused.contains(&module.op));
    fresh.retain(|name, _| !refused_by(name));

    fs::create_dir_all(&written.dir).with_context(|| format!("cannot create {}", written.dir.display()))?;
    for (name, fresh) in &fresh {
        replace(&written.module_path(name), &fresh.spirv)?;
        written.interfaces.kernels.insert(name.clone(), fresh.kernel.clone());
        written.manifest.modules.insert(name.clone(), fresh.made.clone());
    }
    match records(&written.interfaces.kernels) {
        Ok(records) => written.interfaces.records = records,
        Err(error) => faults.push(format!("{error:#}")),
    }
    faults.extend(check_rows(&written.interfaces));
    written.manifest.hash = set_hash(&written.manifest.modules);
    replace(&written.dir.join("interfaces.json"), interfaces_json(&written.interfaces)?.as_bytes())?;
    replace(&written.dir.join("manifest.json"), manifest_json(&written.manifest)?.as_bytes())?;
    for name in written.files()?.iter().filter(|name| !modules.contains_key(*name)) {
        fs::remove_file(written.module_path(name)).with_context(|| format!("cannot remove {name}.spv"))?;
    }
    let bytes = size(shaders)?;
    if bytes > MAX_BYTES {
        faults.push(format!("the shaders crate has {bytes} bytes; at most {MAX_BYTES} are allowed"));
    }
    println!("{} of {} modules compiled; {} KiB in all", fresh.len(), modules.len(), bytes / 1024);
    report(&faults)
}

/// Compiles everything and compares with what is checked in.
pub(super) fn verify(shaders: &Path) -> Result<()> {
    let compiler = shaderc::Compiler::new().context("shaderc does not start")?;
    let written = Written::read(shaders)?;
    let modules = plan::modules()?;
    let mut faults = Vec::new();
    for (name, module) in &modules {
        match compile_one(&compiler, shaders, module) {
            Err(error) => faults.push(format!("{error:#}")),
            Ok(fresh) => {
                if fs::read(written.module_path(name)).ok().as_ref() != Some(&fresh.spirv) {
                    faults.push(format!("{name}.spv differs from what its sources compile to"));
                }
                if written.interfaces.kernels.get(name) != Some(&fresh.kernel) {
                    faults.push(format!("{name}: its entry in interfaces.json differs from its sources"));
                }
                if written.manifest.modules.get(name) != Some(&fresh.made) {
                    faults.push(format!("{name}: its entry in manifest.json differs from its sources"));
                }
            }
        }
    }
    if faults.is_empty() {
        println!("{} modules compile to exactly what is checked in", modules.len());
    }
    report(&faults)
}

/// Compiles one file and prints what it declares.
pub(super) fn probe(file: &Path, axes: &[String], shaders: &Path) -> Result<()> {
    let file = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let mut module =
        Module { name: stem.to_string(), op: String::new(), file: file.clone(), axes: Vec::new() };
    for axis in axes {
        let (axis, value) =
            axis.split_once('=').with_context(|| format!("--axis {axis}: expected AXIS=VALUE"))?;
        module = with(&module, axis, value);
    }
    let compiler = shaderc::Compiler::new().context("shaderc does not start")?;
    let fresh = compile_one(&compiler, shaders, &module)?;
    println!("{}", serde_json::to_string_pretty(&fresh.kernel)?);
    eprintln!("{}: {} bytes", module.name, fresh.spirv.len());
    Ok(())
}

fn report(faults: &[String]) -> Result<()> {
    for fault in faults {
        eprintln!("{fault}");
    }
    ensure!(faults.is_empty(), "{} faults", faults.len());
    Ok(())
}

/// Ways in which kernels of one operation are not interchangeable, with the operation.
pub(super) fn disagreements(
    modules: &BTreeMap<String, Module>,
    kernels: &BTreeMap<String, Kernel>,
) -> Vec<(String, String)> {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let mut defaults: BTreeMap<(&str, &str), (u32, &str)> = BTreeMap::new();
    let mut found = Vec::new();
    for (name, kernel) in kernels {
        let Some(module) = modules.get(name) else { continue };
        let op = module.op.as_str();
        let names = |kernel: &Kernel| {
            kernel.bindings.iter().map(|binding| binding.name.clone()).collect::<Vec<_>>().join(", ")
        };
        let other_name = *first.entry(op).or_insert(name);
        if let Some(other) = kernels.get(other_name) {
            if names(other) != names(kernel) {
                let (a, b) = (names(other), names(kernel));
                found.push((
                    op.to_owned(),
                    format!("op {op}: {other_name} binds ({a}), but {name} binds ({b})"),
                ));
            }
            if other.push != kernel.push {
                let fields = |kernel: &Kernel| {
                    let field = |field: &super::interface::Field| format!("{} {}", field.scalar, field.name);
                    kernel.push.iter().map(field).collect::<Vec<_>>().join(", ")
                };
                let (a, b) = (fields(other), fields(kernel));
                found.push((
                    op.to_owned(),
                    format!("op {op}: {other_name} pushes ({a}), but {name} pushes ({b})"),
                ));
            }
        }
        for spec in &kernel.specs {
            let (default, by) = *defaults.entry((op, &spec.name)).or_insert((spec.default, name));
            if default != spec.default {
                let fault = format!(
                    "op {op}: {} is {default} by default in {by}, but {} in {name}",
                    spec.name, spec.default
                );
                found.push((op.to_owned(), fault));
            }
        }
    }
    found
}

/// All structs that buffers hold; the same name must mean the same struct.
pub(super) fn records(
    kernels: &BTreeMap<String, Kernel>,
) -> Result<BTreeMap<String, super::interface::Record>> {
    let mut records: BTreeMap<String, (super::interface::Record, &str)> = BTreeMap::new();
    for (name, kernel) in kernels {
        for (record, value) in &kernel.records {
            let (other, by) = records.entry(record.clone()).or_insert((value.clone(), name));
            if other != value {
                return Err(anyhow!("struct {record} differs between {by} and {name}"));
            }
        }
    }
    Ok(records.into_iter().map(|(name, (record, _))| (name, record)).collect())
}

/// Writes a file in one move, so that nobody reads half of it; leaves an equal one alone.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let part = path.with_extension("part");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// One line per entry: readable changes in version control, without a line per number.
fn lines<T: Serialize>(entries: &BTreeMap<String, T>) -> Result<String> {
    let line = |(name, value): (&String, &T)| -> Result<String> {
        Ok(format!("    {}: {}", serde_json::to_string(name)?, serde_json::to_string(value)?))
    };
    Ok(entries.iter().map(line).collect::<Result<Vec<_>>>()?.join(",\n"))
}

fn interfaces_json(interfaces: &Interfaces) -> Result<String> {
    let (records, kernels) = (lines(&interfaces.records)?, lines(&interfaces.kernels)?);
    Ok(format!("{{\n  \"records\": {{\n{records}\n  }},\n  \"kernels\": {{\n{kernels}\n  }}\n}}\n"))
}

fn manifest_json(manifest: &Manifest) -> Result<String> {
    let (hash, modules) = (serde_json::to_string(&manifest.hash)?, lines(&manifest.modules)?);
    Ok(format!("{{\n  \"hash\": {hash},\n  \"modules\": {{\n{modules}\n  }}\n}}\n"))
}
