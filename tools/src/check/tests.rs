//! Each rule of `cargo xtask check` can fail, and does not fail on what is allowed.

use super::*;

/// Rules broken by a project of these files.
fn broken(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> =
        files.iter().map(|(path, text)| Source { path: (*path).into(), text: (*text).into() }).collect();
    let lists = Lists { unsafe_files: &[], long: &[("tests/long.rs", "a table")] };
    let mut rules: Vec<String> = check(&sources, &lists)
        .iter()
        .filter(|f| f.rule != "lists")
        .map(|f| format!("{}:{} {}", f.path, f.line, f.rule))
        .collect();
    rules.sort();
    rules
}

/// Rules broken by one file whose opening is in order.
fn broken_in(path: &str, text: &str) -> Vec<String> {
    broken(&[(path, &format!("//! A file.\n{text}"))])
}

const NONE: [&str; 0] = [];

#[test]
fn crates_depend_one_way() {
    let manifest = "[package]\nname = \"x\"\n[workspace.dependencies]\nvkllm = \"1\"\n[dependencies]\n";
    let bad = |line: &str| format!("{manifest}{line}\n");
    assert_eq!(broken(&[("shaders/Cargo.toml", &bad("vkllm-runtime.workspace = true"))]), NONE);
    assert_eq!(
        broken(&[("runtime/Cargo.toml", &bad("vkllm-shaders.workspace = true"))]),
        ["runtime/Cargo.toml:6 crates"]
    );
    assert_eq!(broken(&[("shaders/Cargo.toml", &bad("other = { package = \"vkllm\" }"))]).len(), 1);
    assert_eq!(broken(&[("Cargo.toml", &bad("ash = \"0.38\""))]).len(), 1);
    assert_eq!(broken(&[("runtime/Cargo.toml", &bad("ash = \"0.38\""))]), NONE);
    let table = "[target.'cfg(unix)'.dev-dependencies.vkllm]\npath = \"..\"\n";
    assert_eq!(broken(&[("shaders/Cargo.toml", table)]), ["shaders/Cargo.toml:1 crates"]);
}

#[test]
fn layers_point_down() {
    assert_eq!(broken_in("src/engine/plan.rs", "use crate::models::Row;\nuse crate::error::E;"), NONE);
    assert_eq!(broken_in("src/models/llama.rs", "use crate::engine::E;"), ["src/models/llama.rs:2 layers"]);
    assert_eq!(broken_in("src/gguf/map.rs", "fn f() { crate::text::g() }").len(), 1);
    assert_eq!(broken_in("src/ops/mod.rs", "use crate::{cache::X, session::{Y, Z}, blocks};").len(), 2);
    assert_eq!(broken_in("src/ops/mod.rs", "use super::session::S;").len(), 1);
    assert_eq!(broken_in("src/ops/a.rs", "use super::session::S;"), NONE);
    assert_eq!(broken_in("src/ops/a.rs", "use super::super::session::S;").len(), 1);
    assert_eq!(
        broken_in("src/ops.rs", "mod tests { use super::session; use super::super::session; }").len(),
        1
    );
    assert_eq!(broken_in("src/strange.rs", ""), ["src/strange.rs:1 layers"]);
    assert_eq!(broken_in("src/cli/run.rs", "use crate::session::S; // crate::x"), NONE);
}

#[test]
fn the_crate_root_is_no_detour() {
    let lib = "//! Library.\n#![deny(unsafe_code)]\npub use session::{Event, Session as S};\npub use error::Error;\npub use vkllm_runtime::Device;\n\
               pub type Result<T> = T;\n";
    let with = |text: &str| broken(&[("src/lib.rs", lib), ("src/ops.rs", &format!("//! Ops.\n{text}"))]);
    assert_eq!(with("use crate::{Device, Error, Result};"), NONE);
    assert_eq!(with("use crate::S;"), ["src/ops.rs:2 layers"]);
    assert_eq!(with("use crate::Event;"), ["src/ops.rs:2 layers"]);
    assert_eq!(with("use crate::Unknown;"), ["src/ops.rs:2 layers"]);
}

#[test]
fn commands_and_ash_stay_where_they_are() {
    assert_eq!(broken_in("runtime/src/encode.rs", "d.cmd_dispatch(); ash::vk::X;"), NONE);
    assert_eq!(broken_in("runtime/src/submit.rs", "d.cmd_dispatch();"), ["runtime/src/submit.rs:2 commands"]);
    assert_eq!(broken_in("runtime/src/hazard.rs", "use ash::vk;\nfn f(x: vk::A) {}").len(), 3);
    assert_eq!(broken_in("runtime/src/hazard.rs", "// ash::vk and cmd_x"), NONE);
}

#[test]
fn unsafe_is_listed() {
    assert_eq!(broken_in("src/gguf/mod.rs", "unsafe { f() }"), ["src/gguf/mod.rs:2 unsafe"]);
    assert_eq!(broken_in("src/gguf/mod.rs", "// unsafe\nconst A: &str = \"unsafe\";"), NONE);
    assert_eq!(broken_in("src/lib.rs", "mod a;"), ["src/lib.rs:1 unsafe"]);
    let file = |text: &str| vec![Source { path: "a.rs".into(), text: format!("//! A.\n{text}") }];
    let rules = |text: &str| check(&file(text), &Lists { unsafe_files: &["a.rs"], long: &[] }).len();
    assert_eq!((rules("unsafe {}"), rules("")), (0, 1), "a listed file without unsafe is stale");
}

#[test]
fn the_runtime_knows_no_models() {
    let table = "//! Table.\nconst A: &str = \"rms_norm.row.comp\"; const B: &str = \"linear.matvec.comp\";";
    let with = |text: &str| {
        broken(&[("shaders/src/table.rs", table), ("runtime/src/call.rs", &format!("//! Calls.\n{text}"))])
    };
    assert_eq!(with("let linear = embedded(broken, VulkanMemoryModel); // `linear.matvec.q4_k`"), NONE);
    for bad in
        ["fn next_token() {}", "struct KvCache;", "// the logits", "let x = \"llama\";", "fn maxTokens() {}"]
    {
        assert_eq!(with(bad), ["runtime/src/call.rs:2 words"], "{bad}");
    }
    for bad in ["fn rms_norm() {}", "let x = \"linear\";", "let x = \"linear.matvec\";"] {
        assert_eq!(with(bad), ["runtime/src/call.rs:2 words"], "{bad}");
    }
}

#[test]
fn libraries_are_quiet() {
    for bad in ["println!(\"x\");", "std::env::var(\"X\");", "std::process::exit(1);", "dbg!(x);"] {
        assert_eq!(broken_in("runtime/src/device.rs", bad), ["runtime/src/device.rs:2 quiet"], "{bad}");
        assert_eq!(broken_in("src/cli/run.rs", bad), NONE, "{bad}");
        assert_eq!(broken_in("src/ops.rs", &format!("#[cfg(test)]\nmod t {{ fn f() {{ {bad} }} }}")), NONE);
    }
    assert_eq!(broken_in("src/ops.rs", "env!(\"CARGO_PKG_VERSION\"); std::process::id();"), NONE);
}

#[test]
fn files_are_short_and_open_with_a_sentence() {
    let long = "\n".repeat(LINES);
    assert_eq!(broken_in("src/ops.rs", &long), [format!("src/ops.rs:{LINES} length")]);
    assert_eq!(broken_in("tests/long.rs", &long), NONE);
    for bad in ["", "use x;\n", "// Not a doc comment.\n", "//!\n"] {
        assert_eq!(broken(&[("src/ops.rs", bad)]), ["src/ops.rs:1 opening"], "{bad:?}");
    }
    assert_eq!(broken(&[("shaders/kernels/a.b.comp", "#version 460\n// Adds.\n")]), NONE);
    assert_eq!(broken(&[("shaders/kernels/a.b.comp", "#version 460\nvoid main() {}\n")]).len(), 1);
}

#[test]
fn stale_exceptions_are_found() {
    let lists = Lists { unsafe_files: &["gone.rs"], long: &[("away.rs", "reason")] };
    assert_eq!(check(&[], &lists).len(), 2);
}
