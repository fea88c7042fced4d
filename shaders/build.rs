//! Turns the table of kernels and the reflected interfaces into Rust: argument and push structs, specialisation
//! constants, kernels with their code, and candidates to choose from. It compiles no shaders.

#[path = "interface.rs"]
#[allow(dead_code, unreachable_pub)]
mod interface;
#[path = "src/table.rs"]
#[allow(dead_code, unreachable_pub)]
mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use interface::{Field, Interfaces, Kernel, Manifest, Spec};
use table::{ROWS, Row};

fn main() -> ExitCode {
    for path in [
        "build.rs",
        "interface.rs",
        "src/table.rs",
        "src/reference",
        "spirv",
        "kernels",
        "formats",
        "include",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

/// An operation: its modules by name with their axis values, and the rows of the table that use them.
#[derive(Default)]
struct Op<'a> {
    modules: BTreeMap<String, Vec<(&'a str, &'a str)>>,
    rows: Vec<(&'a Row, Vec<String>)>,
}

fn generate() -> Result<(), String> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?);
    let interfaces: Interfaces = read(&root.join("spirv/interfaces.json"))?;
    let manifest: Manifest = read(&root.join("spirv/manifest.json"))?;

    let mut ops: BTreeMap<&str, Op<'_>> = BTreeMap::new();
    for row in ROWS {
        let op = ops.entry(row.op).or_default();
        let modules = expand(row);
        op.rows.push((row, modules.iter().map(|(name, _)| name.clone()).collect()));
        op.modules.extend(modules);
    }

    let mut text = String::new();
    sources(&mut text, &root)?;
    put(&mut text, format_args!("/// Names the set of compiled shaders.\n"));
    put(&mut text, format_args!("pub const SHADER_HASH: &str = {:?};\n", manifest.hash));
    records(&mut text, &interfaces)?;
    put(&mut text, format_args!("/// One module per operation.\npub mod ops {{\n"));
    let (mut all, mut table, mut pushed) = (String::new(), String::new(), String::new());
    for (name, op) in &ops {
        if !root.join(format!("src/reference/{name}.rs")).is_file() {
            return Err(format!("op {name} has no meaning: src/reference/{name}.rs is missing"));
        }
        operation(&mut text, &root, name, op, &interfaces, &manifest)?;
        for index in 0..op.modules.len() {
            put(&mut all, format_args!("&{name}::KERNELS[{index}], "));
        }
        put(&mut table, format_args!("({name:?}, {}::CANDIDATES), ", identifier(name)));
        let kernel = op.modules.keys().next().and_then(|module| interfaces.kernels.get(module));
        let fields = kernel.iter().flat_map(|kernel| &kernel.push);
        let fields = fields.map(|f| format!("({:?}, {:?}, {}, {}), ", f.name, f.scalar, f.offset, f.count));
        put(&mut pushed, format_args!("({name:?}, &[{}]), ", fields.collect::<String>()));
    }
    put(&mut text, format_args!("/// All kernels of all operations.\n"));
    put(&mut text, format_args!("pub static ALL: &[&vkllm_runtime::Kernel] = &[{all}];\n"));
    put(&mut text, format_args!("/// Every operation with what the table says about its kernels.\n"));
    let kind = "&[(&str, &[crate::select::Candidate])]";
    put(&mut text, format_args!("pub static TABLE: {kind} = &[{table}];\n"));
    put(
        &mut text,
        format_args!("/// Push constants of every operation: name, scalar, byte offset, count.\n"),
    );
    let kind = "&[(&str, &[(&str, &str, u32, u32)])]";
    put(&mut text, format_args!("pub static PUSH_FIELDS: {kind} = &[{pushed}];\n}}\n"));
    let path = out.join("generated.rs");
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{} is damaged: {error}", path.display()))
}

/// Module names and axis values of a row.
fn expand(row: &Row) -> Vec<(String, Vec<(&'static str, &'static str)>)> {
    let stem = row.file.rsplit_once('.').map_or(row.file, |(stem, _)| stem);
    let mut modules = vec![(stem.to_owned(), Vec::new())];
    for &(axis, values) in row.axes {
        let mut longer = Vec::new();
        for (name, axes) in &modules {
            for &value in values {
                let mut axes: Vec<(&str, &str)> = axes.clone();
                axes.push((axis, value));
                longer.push((format!("{name}.{value}"), axes));
            }
        }
        modules = longer;
    }
    modules
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(line);
}

/// A name that may be a keyword of Rust.
fn identifier(name: &str) -> String {
    const KEYWORDS: &[&str] =
        &["as", "box", "fn", "in", "loop", "match", "mod", "move", "ref", "type", "use", "where"];
    if KEYWORDS.contains(&name) { format!("r#{name}") } else { name.to_owned() }
}

/// A struct with exactly the layout the shaders see; gaps become fields.
fn layout(text: &mut String, name: &str, fields: &[Field], size: u32) -> Result<(), String> {
    let derive = "Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable";
    put(text, format_args!("#[repr(C)]\n#[derive({derive})]\npub struct {name} {{\n"));
    let mut fields: Vec<&Field> = fields.iter().collect();
    fields.sort_by_key(|field| field.offset);
    let mut at = 0;
    let gap = |text: &mut String, from: u32, to: u32| match to.checked_sub(from) {
        None => Err(format!("struct {name}: fields overlap at byte {to}")),
        Some(0) => Ok(()),
        Some(bytes) => {
            put(text, format_args!("pub gap_{from}: [u32; {}],\n", bytes / 4));
            Ok(())
        }
    };
    for field in fields {
        gap(text, at, field.offset)?;
        let scalar = &field.scalar;
        let kind = if field.count == 1 { scalar.clone() } else { format!("[{scalar}; {}]", field.count) };
        put(text, format_args!("pub {}: {kind},\n", identifier(&field.name)));
        at = field.offset + 4 * field.count;
    }
    gap(text, at, size)?;
    put(text, format_args!("}}\n"));
    Ok(())
}

/// The texts that the modules are compiled from.
fn sources(text: &mut String, root: &Path) -> Result<(), String> {
    let mut files = Vec::new();
    for folder in ["kernels", "formats", "include"] {
        let path = root.join(folder);
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            files.push((format!("{folder}/{name}"), path.join(&name)));
        }
    }
    files.sort();
    put(
        text,
        format_args!(
            "/// Sources of the shaders: name and text.\npub static SOURCES: &[(&str, &str)] = &[\n"
        ),
    );
    for (name, path) in files {
        put(text, format_args!("({name:?}, include_str!({path:?})),\n"));
    }
    put(text, format_args!("];\n"));
    Ok(())
}

fn records(text: &mut String, interfaces: &Interfaces) -> Result<(), String> {
    put(text, format_args!("/// Elements of buffers, as the shaders declare them.\npub mod records {{\n"));
    for (name, record) in &interfaces.records {
        put(text, format_args!("/// Element of the buffers that hold `{name}` in the shaders.\n"));
        layout(text, name, &record.fields, record.size)?;
    }
    put(text, format_args!("}}\n"));
    Ok(())
}

fn operation(
    text: &mut String,
    root: &Path,
    name: &str,
    op: &Op<'_>,
    interfaces: &Interfaces,
    manifest: &Manifest,
) -> Result<(), String> {
    let missing =
        |module: &str| format!("{module} is in the table but not compiled: run `cargo xtask shaders`");
    let mut kernels = Vec::new();
    for (module, axes) in &op.modules {
        kernels.push((module, axes, interfaces.kernels.get(module).ok_or_else(|| missing(module))?));
    }
    let Some((_, _, first)) = kernels.first() else { return Ok(()) };
    put(text, format_args!("/// Operation `{name}`.\npub mod {} {{\n", identifier(name)));
    put(text, format_args!("use crate::select::Candidate;\n#[allow(unused_imports)]\n"));
    put(text, format_args!("use vkllm_runtime::{{Access, Binding, Kernel, Need, SpecConstant, View}};\n"));
    arguments(text, first);
    put(text, format_args!("/// The push block.\n"));
    layout(text, "Push", &first.push, first.push_size)?;
    specs(text, kernels.iter().flat_map(|(_, _, kernel)| &kernel.specs));

    put(text, format_args!("/// All kernels, by name.\npub static KERNELS: &[Kernel] = &[\n"));
    for (module, axes, kernel) in &kernels {
        let made = manifest.modules.get(*module).ok_or_else(|| missing(module))?;
        let hash = made.spirv.get(..16).ok_or_else(|| missing(module))?;
        let path = root.join(format!("spirv/{module}.spv"));
        put(text, format_args!("Kernel {{ name: {module:?}, op: {name:?}, axes: &{axes:?},\n"));
        put(text, format_args!("spirv: include_bytes!({path:?}), hash: 0x{hash},\nbindings: &["));
        for binding in &kernel.bindings {
            let interface::Binding { name, access, stride, at } = binding;
            let fields = format!("name: {name:?}, access: Access::{access}, stride: {stride}, at: {at:?}");
            put(text, format_args!("Binding {{ {fields} }}, "));
        }
        put(text, format_args!("],\npush_size: {}, specs: &[", kernel.push_size));
        for Spec { name, id, default } in &kernel.specs {
            put(text, format_args!("SpecConstant {{ name: {name:?}, id: {id}, default: {default} }}, "));
        }
        let needs: String = kernel.needs.iter().map(|need| format!("Need::{need}, ")).collect();
        put(text, format_args!("],\nneeds: &[{needs}], meaning: crate::reference::{name}::{name} }},\n"));
    }
    put(text, format_args!("];\n/// What the table says about the kernels.\n"));
    put(text, format_args!("pub static CANDIDATES: &[Candidate] = &[\n"));
    for (row, modules) in &op.rows {
        for module in modules {
            let index =
                kernels.iter().position(|(name, _, _)| *name == module).ok_or_else(|| missing(module))?;
            let kernel = kernels[index].2;
            for (spec, _) in row.spec {
                if kernel.specs.iter().all(|known| known.name != *spec) {
                    return Err(format!(
                        "a row of {} fixes {spec}, which {module} does not declare",
                        row.file
                    ));
                }
            }
            let Row { spec, rows, subgroup, class, rank, .. } = row;
            put(
                text,
                format_args!("Candidate {{ kernel: &KERNELS[{index}], spec: &{spec:?}, rows: {rows:?}, "),
            );
            put(text, format_args!("subgroup: {subgroup:?}, class: {class:?}, rank: {rank}, "));
            put(text, format_args!("local: {:?} }},\n", kernel.local_size));
        }
    }
    put(text, format_args!("];\n}}\n"));
    Ok(())
}

fn arguments(text: &mut String, kernel: &Kernel) {
    put(
        text,
        format_args!("/// The buffers, in binding order.\n#[derive(Clone, Debug)]\npub struct Args {{\n"),
    );
    let mut list = String::new();
    for binding in &kernel.bindings {
        let name = identifier(&binding.name);
        put(text, format_args!("pub {name}: View,\n"));
        put(&mut list, format_args!("self.{name}, "));
    }
    put(text, format_args!("}}\nimpl Args {{\n/// As a dispatch takes them.\n"));
    put(text, format_args!("pub fn views(self) -> Vec<View> {{ vec![{list}] }}\n}}\n"));
}

/// The union of the specialisation constants of an operation's kernels.
fn specs<'a>(text: &mut String, all: impl Iterator<Item = &'a Spec>) {
    let all: BTreeMap<&str, u32> = all.map(|spec| (spec.name.as_str(), spec.default)).collect();
    let field = |name: &str| identifier(&name.to_lowercase());
    put(
        text,
        format_args!("/// Specialisation constants of all kernels; the default is the shaders' own.\n"),
    );
    put(text, format_args!("#[derive(Clone, Debug, PartialEq, Eq)]\npub struct Spec {{\n"));
    all.keys().for_each(|name| put(text, format_args!("pub {}: u32,\n", field(name))));
    put(text, format_args!("}}\nimpl Default for Spec {{\nfn default() -> Self {{ Self {{ "));
    all.iter().for_each(|(name, default)| put(text, format_args!("{}: {default}, ", field(name))));
    put(text, format_args!("}} }}\n}}\nimpl Spec {{\n"));
    put(text, format_args!("/// Sets a constant by its name in the shaders; false when there is none.\n"));
    let value = if all.is_empty() { "_" } else { "value" };
    put(text, format_args!("pub fn set(&mut self, name: &str, {value}: u32) -> bool {{\nmatch name {{\n"));
    all.keys().for_each(|name| put(text, format_args!("{name:?} => self.{} = value,\n", field(name))));
    put(text, format_args!("_ => return false,\n}}\n"));
    put(text, format_args!("{}\n}}\n", if all.is_empty() { "" } else { "true" }));
    put(text, format_args!("/// Names in the shaders, and values.\n"));
    put(text, format_args!("pub fn values(&self) -> Vec<(&'static str, u32)> {{\nvec!["));
    all.keys().for_each(|name| put(text, format_args!("({name:?}, self.{}), ", field(name))));
    put(text, format_args!("]\n}}\n}}\n"));
}
