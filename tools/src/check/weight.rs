//! What an embedder builds: the crates that the library pulls without features. A new one is a decision, made here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::Finding;

/// Every crate of a default build, those of other systems and of build scripts included.
const DEFAULT: &[&str] = &[
    "ash",
    "block-buffer",
    "bytemuck",
    "bytemuck_derive",
    "cfg-if",
    "cpufeatures",
    "crunchy",
    "crypto-common",
    "digest",
    "generic-array",
    "gpu-allocator",
    "half",
    "itoa",
    "libc",
    "libloading",
    "log",
    "memchr",
    "memmap2",
    "once_cell",
    "pin-project-lite",
    "presser",
    "proc-macro2",
    "quote",
    "regex-automata",
    "regex-syntax",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "sha2",
    "syn",
    "thiserror",
    "thiserror-impl",
    "tracing",
    "tracing-attributes",
    "tracing-core",
    "typenum",
    "unicode-ident",
    "version_check",
    "vkllm",
    "vkllm-runtime",
    "vkllm-shaders",
    "windows-link",
    "zerocopy",
    "zerocopy-derive",
    "zmij",
];

/// Compares the tree of dependencies, as cargo resolves it, with [`DEFAULT`].
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let tree = cargo
        .args([
            "tree",
            "--package",
            "vkllm",
            "--edges",
            "normal,build",
            "--target",
            "all",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot start cargo tree")?;
    if !tree.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&tree.stderr).trim());
    }
    Ok(compare(&String::from_utf8_lossy(&tree.stdout), DEFAULT))
}

/// One finding for each crate that is not on the list, or is on it for nothing.
fn compare(tree: &str, allowed: &[&str]) -> Vec<Finding> {
    let found: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let found: BTreeSet<&str> = found.into_iter().filter(|name| !name.is_empty()).collect();
    let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
    let finding = |what: String| Finding { path: "Cargo.toml".into(), line: 1, rule: "weight", what };
    let new = found.difference(&allowed).map(|name| {
        finding(format!(
            "the library without features pulls {name}; put it behind a feature, or on the list of tools/src/check/weight.rs"
        ))
    });
    let gone = allowed.difference(&found).map(|name| {
        finding(format!("tools/src/check/weight.rs lists {name}, which the library does not pull"))
    });
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_more_or_less_is_reported() {
        let tree = "vkllm v0.1.0 (/here)\nash v0.38.0\n\nash v0.38.0 (*)\n";
        assert_eq!(compare(tree, &["ash", "vkllm"]).len(), 0);
        assert!(compare(tree, &["vkllm"])[0].what.contains("pulls ash"));
        assert!(compare(tree, &["ash", "tokio", "vkllm"])[0].what.contains("lists tokio"));
    }

    /// HTTP, TLS, async runtimes and command lines stay behind features.
    #[test]
    fn the_list_names_nothing_heavy() {
        for heavy in
            ["ureq", "hyper", "reqwest", "rustls", "ring", "openssl", "tokio", "smol", "clap", "minijinja"]
        {
            assert!(!DEFAULT.contains(&heavy), "{heavy}");
        }
    }
}
