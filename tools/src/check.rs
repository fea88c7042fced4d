//! `cargo xtask check`: the rules of the house that a compiler does not know. Dependencies between crates and
//! between modules, where `unsafe` and Vulkan commands may stand, what a library may not do, how long a file may be.

mod tokens;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use tokens::{Kind, Token, tokenize};

/// Crates, lowest first; each may depend on those before it.
const CRATES: &[(&str, &str)] = &[
    ("vkllm-runtime", "runtime/Cargo.toml"),
    ("vkllm-shaders", "shaders/Cargo.toml"),
    ("vkllm", "Cargo.toml"),
    ("vkllm-capi", "capi/Cargo.toml"),
    ("vkllm-tools", "tools/Cargo.toml"),
];

/// External crates that only one of ours may use.
const OWNED: &[(&str, &str)] = &[
    ("ash", "vkllm-runtime"),
    ("gpu-allocator", "vkllm-runtime"),
    ("memmap2", "vkllm"),
    ("shaderc", "vkllm-tools"),
    ("naga", "vkllm-tools"),
];

/// Modules of `src`, highest first. A module may use those of later groups; names in one group do not know each other.
const LAYERS: &[&[&str]] = &[
    &["cli", "capi"],
    &["bench", "doctor", "repro", "audit", "chat", "constrain", "hub"],
    &["session"],
    &["speculate", "sample"],
    &["engine"],
    &["models"],
    &["blocks"],
    &["ops"],
    &["cache"],
    &["weights", "batch"],
    &["tensor"],
    &["error"],
    &["text"],
    &["gguf", "selftest"],
];

/// Parts of the runtime that know nothing of Vulkan.
const PURE: &[&str] = &[
    "runtime/src/caps.rs",
    "runtime/src/choose.rs",
    "runtime/src/recording.rs",
    "runtime/src/regrid.rs",
    "runtime/src/place.rs",
    "runtime/src/hazard.rs",
    "runtime/src/kernel.rs",
    "runtime/src/call.rs",
    "runtime/src/simulate.rs",
];

/// The one file that records Vulkan commands.
const ENCODER: &str = "runtime/src/encode.rs";
/// A measurement that must have nothing in common with the runtime, which it is held against.
const INDEPENDENT: &str = "tests/ceiling.rs";

/// Files that may contain `unsafe`.
const UNSAFE: &[&str] = &[
    "capi/src/guard.rs",
    "capi/src/lib.rs",
    "capi/src/tests.rs",
    "capi/src/types.rs",
    "runtime/src/commands.rs",
    "runtime/src/device.rs",
    "runtime/src/encode.rs",
    "runtime/src/fault.rs",
    "runtime/src/inspect.rs",
    "runtime/src/memory.rs",
    "runtime/src/physical.rs",
    "runtime/src/pipeline.rs",
    "runtime/src/submit.rs",
    "runtime/src/vulkan.rs",
    "tests/models/borrowed.rs",
    "src/bench/amdgpu.rs",
    "src/gguf/map.rs",
    "tests/ceiling.rs",
];

/// Crate roots that must deny `unsafe_code`.
const ROOTS: &[&str] = &["runtime/src/lib.rs", "shaders/src/lib.rs", "src/lib.rs"];

/// Words of language models, singular, that the runtime must not know.
const MODEL_WORDS: &[&str] = &[
    "attention",
    "drafter",
    "embedding",
    "gemma",
    "ggml",
    "gguf",
    "glu",
    "kv",
    "llama",
    "llm",
    "logit",
    "mistral",
    "mixtral",
    "prefill",
    "prompt",
    "qwen",
    "rope",
    "silu",
    "softmax",
    "token",
    "tokeniser",
    "tokenizer",
    "transformer",
    "vocab",
    "vocabulary",
];

/// Lines a file may have.
const LINES: usize = 700;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// A file of the project, its path relative to the root, with `/`.
struct Source {
    path: String,
    text: String,
}

/// A broken rule.
#[derive(Debug)]
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
}

/// Check the rules of the house that a compiler does not know.
#[derive(clap::Args)]
pub(crate) struct CheckArgs {}

/// Checks the project this program was built from.
pub(crate) fn run(_: CheckArgs) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = read(&root)?;
    let mut findings = check(&sources, &Lists { unsafe_files: UNSAFE, long: LONG });
    findings.extend(weight::check(&root)?);
    for f in &findings {
        eprintln!("{}:{}: {}: {}", f.path, f.line, f.rule, f.what);
    }
    if !findings.is_empty() {
        bail!("{} broken rules in {} files", findings.len(), sources.len());
    }
    println!("{} files follow the rules", sources.len());
    Ok(())
}

/// Reads manifests, Rust sources and shaders.
fn read(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders: Vec<String> =
        ["capi", "runtime", "shaders", "src", "tests", "tools"].map(String::from).into();
    let mut files = vec!["Cargo.toml".to_owned()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        if !path.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
            let entry = entry?;
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() && !name.ends_with("/target") {
                folders.push(name);
            } else if kind.is_file() && (is_source(&name) || name.ends_with("/Cargo.toml")) {
                files.push(name);
            }
        }
    }
    files.sort();
    for path in files {
        let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
        sources.push(Source { path, text });
    }
    Ok(sources)
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn is_source(path: &str) -> bool {
    is_rust(path) || [".comp", ".wgsl", ".glsl"].iter().any(|end| path.ends_with(end))
}

/// The checked-in exceptions, handed in so that tests can use their own.
struct Lists<'a> {
    unsafe_files: &'a [&'a str],
    long: &'a [(&'a str, &'a str)],
}

fn check(sources: &[Source], lists: &Lists<'_>) -> Vec<Finding> {
    let mut out = Vec::new();
    crates(sources, &mut out);
    let kernels = kernel_names(sources);
    let exports = root_names(sources);
    for source in sources.iter().filter(|s| is_source(&s.path)) {
        shape(source, lists, &mut out);
    }
    for source in sources.iter().filter(|s| is_rust(&s.path)) {
        let tokens = tokenize(&source.text);
        layers(source, &tokens, &exports, &mut out);
        vulkan(source, &tokens, &mut out);
        unsafety(source, &tokens, lists, &mut out);
        words(source, &tokens, &kernels, &mut out);
        quiet(source, &tokens, &mut out);
    }
    let stale = |path: &str| !sources.iter().any(|s| s.path == path);
    for path in lists.unsafe_files.iter().chain(lists.long.iter().map(|(path, _)| path)) {
        if stale(path) {
            report(&mut out, path, 1, "lists", "is on a list of exceptions but does not exist".into());
        }
    }
    out
}

fn report(out: &mut Vec<Finding>, path: &str, line: usize, rule: &'static str, what: String) {
    out.push(Finding { path: path.to_owned(), line, rule, what });
}

/// Crates depend one way, and wrapped libraries stay wrapped.
fn crates(sources: &[Source], out: &mut Vec<Finding>) {
    for (rank, (name, manifest)) in CRATES.iter().enumerate() {
        let Some(source) = sources.iter().find(|s| s.path == *manifest) else { continue };
        for (line, dependency) in dependencies(&source.text) {
            let lower = CRATES.iter().position(|(other, _)| *other == dependency);
            // A crate that names itself switches its features on for its tests.
            if lower.is_some_and(|lower| lower > rank) {
                report(out, manifest, line, "crates", format!("{name} may not depend on {dependency}"));
            }
            if let Some((_, owner)) =
                OWNED.iter().find(|(other, owner)| *other == dependency && owner != name)
            {
                report(out, manifest, line, "crates", format!("only {owner} may depend on {dependency}"));
            }
        }
    }
}

/// Line and package name of each dependency in a manifest; the workspace's table of versions is not one.
fn dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let parts: Vec<&str> = header.rsplit('.').collect();
            let is_table = |part: &str| part.ends_with("dependencies");
            inside = is_table(parts[0]) && !header.starts_with("workspace.");
            if parts.len() > 1 && is_table(parts[1]) && !header.starts_with("workspace.") {
                found.push((index + 1, parts[0].trim_matches('"').to_owned()));
            }
        } else if inside && let Some((key, value)) = line.split_once('=') {
            let renamed = value.split_once("package").and_then(|(_, rest)| rest.split('"').nth(1));
            let key = key.trim().split('.').next().unwrap_or_default().trim_matches('"');
            if !key.is_empty() && !key.starts_with('#') {
                found.push((index + 1, renamed.unwrap_or(key).to_owned()));
            }
        }
    }
    found
}

/// Length and opening line.
fn shape(source: &Source, lists: &Lists<'_>, out: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    if lines > LINES && !lists.long.iter().any(|(path, _)| *path == source.path) {
        report(out, &source.path, LINES, "length", format!("{lines} lines, allowed are {LINES}"));
    }
    let mut opening = source.text.lines().map(str::trim).filter(|line| !line.starts_with("#version"));
    let first = opening.next().unwrap_or_default();
    let mark = if is_rust(&source.path) { "//!" } else { "//" };
    if !first.starts_with(mark) || first.trim_start_matches(['/', '!', ' ']).is_empty() {
        let what = format!("does not open with a `{mark}` sentence that says what the file is for");
        report(out, &source.path, 1, "opening", what);
    }
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|group| group.contains(&module))
}

/// Names that `src/lib.rs` gives the crate root: re-exports with the module they come from, own items with none.
fn root_names(sources: &[Source]) -> BTreeMap<String, Option<String>> {
    let mut names = BTreeMap::new();
    let Some(lib) = sources.iter().find(|s| s.path == "src/lib.rs") else { return names };
    let tokens = code(&lib.text);
    for i in 0..tokens.len() {
        let Some(next) = tokens.get(i + 1) else { break };
        if tokens[i].is("use") {
            let mut leaves = Vec::new();
            use_tree(&tokens, i + 1, None, &mut leaves);
            names.extend(leaves.into_iter().map(|(leaf, module)| (leaf, Some(module))));
        } else if ["type", "const", "static", "fn", "struct", "enum", "trait"].iter().any(|w| tokens[i].is(w))
            && next.kind == Kind::Ident
        {
            names.insert(next.text.to_owned(), None);
        } else if tokens[i].is("macro_rules")
            && let Some(name) = tokens.get(i + 2)
        {
            names.insert(name.text.to_owned(), None);
        }
    }
    names
}

fn code(text: &str) -> Vec<Token<'_>> {
    tokenize(text).into_iter().filter(|t| t.kind != Kind::Comment).collect()
}

/// Reads one use tree from `i`; collects the names it brings in with the first segment of their path.
fn use_tree(
    tokens: &[Token<'_>],
    mut i: usize,
    first: Option<&str>,
    leaves: &mut Vec<(String, String)>,
) -> usize {
    let mut first = first.map(str::to_owned);
    let mut last = String::new();
    while let Some(token) = tokens.get(i) {
        match token.text {
            "::" => {}
            "crate" | "self" if first.is_none() => {}
            "as" => {
                last = tokens.get(i + 1).map_or(String::new(), |t| t.text.to_owned());
                i += 1;
            }
            "{" => {
                i += 1;
                while tokens.get(i).is_some_and(|t| !t.is("}")) {
                    i = use_tree(tokens, i, first.as_deref(), leaves);
                    i += usize::from(tokens.get(i).is_some_and(|t| t.is(",")));
                }
                return i + 1;
            }
            _ if token.kind == Kind::Ident => {
                first.get_or_insert_with(|| token.text.to_owned());
                last = token.text.to_owned();
            }
            "*" => {}
            _ => break,
        }
        i += 1;
    }
    if let Some(first) = first {
        leaves.push((last, first));
    }
    i
}

/// Modules of `src` know only lower layers.
fn layers(
    source: &Source,
    tokens: &[Token<'_>],
    exports: &BTreeMap<String, Option<String>>,
    out: &mut Vec<Finding>,
) {
    let Some(path) = source.path.strip_prefix("src/") else { return };
    let parts: Vec<&str> = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let own = parts[0];
    if ["lib", "main"].contains(&own) {
        return;
    }
    let Some(layer) = layer_of(own) else {
        report(out, &source.path, 1, "layers", format!("module {own} has no layer; give it one in LAYERS"));
        return;
    };
    let tokens: Vec<&Token<'_>> = tokens.iter().filter(|t| t.kind != Kind::Comment).collect();
    let mut used = |i: usize| {
        let token = tokens[i];
        let module = match exports.get(token.text) {
            Some(Some(module)) if layer_of(module).is_some() => module.as_str(),
            // The root's own items and what it takes from other crates.
            Some(_) if layer_of(token.text).is_none() => return,
            _ => token.text,
        };
        let what = match layer_of(module) {
            _ if module == own => return,
            Some(other) if other > layer => return,
            Some(_) if module == token.text => format!("{own} may not know {module}"),
            Some(_) => format!("{own} may not know {module}, from which the crate root takes {}", token.text),
            None => format!("crate::{module} is neither a module with a layer nor re-exported by lib.rs"),
        };
        report(out, &source.path, token.line, "layers", what);
    };
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.is(text));
    for i in 0..tokens.len() {
        // Position behind the root: after `crate::`, or after as many `super::` as the file is deep.
        let mut at = i;
        if tokens[i].is("crate") && is(i + 1, "::") {
            at = i + 2;
        } else if tokens[i].is("super") && !(i > 0 && tokens[i - 1].is("::")) {
            while tokens.get(at).is_some_and(|t| t.is("super")) && is(at + 1, "::") {
                at += 2;
            }
            if (at - i) / 2 != parts.len() + tokens[i].depth {
                continue;
            }
        }
        if at == i {
            continue;
        }
        if is(at, "{") {
            let mut nested = 0;
            for j in at..tokens.len() {
                let opens = tokens[j].is("{");
                nested += usize::from(opens);
                nested -= usize::from(tokens[j].is("}"));
                if nested == 0 {
                    break;
                }
                let next = tokens.get(j + 1).is_some_and(|t| t.kind == Kind::Ident);
                if nested == 1 && (opens || tokens[j].is(",")) && next {
                    used(j + 1);
                }
            }
        } else if tokens.get(at).is_some_and(|t| t.kind == Kind::Ident) {
            used(at);
        }
    }
}

/// Vulkan commands are recorded in one file, and the planning half of the runtime knows no Vulkan.
fn vulkan(source: &Source, tokens: &[Token<'_>], out: &mut Vec<Finding>) {
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| t.kind == Kind::Ident) {
        let command = token.text.starts_with("cmd_") || token.text.starts_with("vkCmd");
        if command && ![ENCODER, INDEPENDENT].contains(&source.path.as_str()) {
            let what = format!("{} belongs in {ENCODER}", token.text);
            report(out, &source.path, token.line, "commands", what);
        }
        let path = tokens.get(i + 1).is_some_and(|t| t.is("::") || t.is(";"));
        if ["ash", "vk", "gpu_allocator"].contains(&token.text)
            && path
            && PURE.contains(&source.path.as_str())
        {
            report(
                out,
                &source.path,
                token.line,
                "pure",
                format!("names {}, but this file knows no Vulkan", token.text),
            );
        }
    }
}

/// `unsafe` stands only in listed files, and the compiler denies it elsewhere.
fn unsafety(source: &Source, tokens: &[Token<'_>], lists: &Lists<'_>, out: &mut Vec<Finding>) {
    let first = tokens.iter().find(|t| t.is("unsafe"));
    let listed = lists.unsafe_files.contains(&source.path.as_str());
    match first {
        Some(token) if !listed => {
            let what = "`unsafe` in a file that is not on the list".to_owned();
            report(out, &source.path, token.line, "unsafe", what);
        }
        None if listed => {
            let what = "is on the list of files with `unsafe` and has none".to_owned();
            report(out, &source.path, 1, "lists", what);
        }
        _ => {}
    }
    let denies = tokens
        .windows(3)
        .any(|w| (w[0].is("deny") || w[0].is("forbid")) && w[1].is("(") && w[2].is("unsafe_code"));
    if ROOTS.contains(&source.path.as_str()) && !denies {
        report(out, &source.path, 1, "unsafe", "the crate root must deny `unsafe_code`".into());
    }
}

/// Kernel files named by the table, without their ending: `linear.matvec`, and the operations: `linear`.
fn kernel_names(sources: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let table = sources.iter().find(|s| s.path == "shaders/src/table.rs");
    for token in table.map(|s| code(&s.text)).unwrap_or_default() {
        let stem = token.text.strip_suffix(".comp").or_else(|| token.text.strip_suffix(".wgsl"));
        if let (Kind::Text, Some(stem)) = (token.kind, stem) {
            names.extend(stem.split('.').next().map(str::to_owned));
            names.insert(stem.to_owned());
        }
    }
    names
}

/// The runtime names no kernel, no model, no word of language models.
fn words(source: &Source, tokens: &[Token<'_>], kernels: &BTreeSet<String>, out: &mut Vec<Finding>) {
    if !source.path.starts_with("runtime/src/") {
        return;
    }
    for token in tokens {
        if matches!(token.kind, Kind::Ident | Kind::Text | Kind::Comment) {
            for word in split_words(token.text) {
                let singular = word.strip_suffix('s').unwrap_or(&word);
                if MODEL_WORDS.contains(&singular) || MODEL_WORDS.contains(&word.as_str()) {
                    let what = format!("`{word}` is a word of language models");
                    report(out, &source.path, token.line, "words", what);
                }
            }
        }
        // A one-word operation ("linear") is an ordinary identifier; only as a whole string does it name a kernel.
        let named = match token.kind {
            Kind::Ident => token.text.contains('_') && kernels.contains(token.text),
            Kind::Text => kernels.contains(token.text),
            _ => false,
        };
        if named {
            report(out, &source.path, token.line, "words", format!("`{}` names a kernel", token.text));
        }
    }
}

/// Splits at everything that is no letter and before capitals that follow a small letter; lower case.
fn split_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous = ' ';
    for c in text.chars() {
        if !c.is_ascii_alphabetic() || (c.is_ascii_uppercase() && previous.is_ascii_lowercase()) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_ascii_alphabetic(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
        previous = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Libraries neither print nor read the environment nor end the process; their tests may.
fn quiet(source: &Source, tokens: &[Token<'_>], out: &mut Vec<Finding>) {
    let path = source.path.as_str();
    let library =
        ["src/", "runtime/src/", "shaders/src/", "capi/src/"].iter().any(|folder| path.starts_with(folder));
    let program = path == "src/main.rs" || path == "src/cli.rs" || path.starts_with("src/cli/");
    let tests = path.ends_with("/tests.rs") || path.contains("/tests/");
    if !library || program || tests {
        return;
    }
    const MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
    const PATHS: &[(&str, &[&str])] = &[
        ("env", &["var", "vars", "var_os", "vars_os", "set_var", "remove_var"]),
        ("process", &["exit", "abort"]),
    ];
    let code: Vec<&Token<'_>> = tokens.iter().filter(|t| t.kind != Kind::Comment && !t.test).collect();
    for w in code.windows(3) {
        let what = if MACROS.iter().any(|m| w[0].is(m)) && w[1].is("!") {
            format!("{}! in a library", w[0].text)
        } else if w[1].is("::")
            && PATHS.iter().any(|(m, names)| w[0].is(m) && names.iter().any(|n| w[2].is(n)))
        {
            format!("{}::{} in a library", w[0].text, w[2].text)
        } else {
            continue;
        };
        report(out, path, w[0].line, "quiet", what);
    }
}

#[cfg(test)]
mod tests;
