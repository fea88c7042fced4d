//! Which modules the table asks for, and from which texts each is made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::table::{ROWS, Row};

/// What is mixed into the hash of every GLSL module: compiler, options and the form of the reflection.
const GLSL: &str = "shaderc 0.10.1 vulkan1.3 spirv1.6 performance; reflection 1";
/// The same for WGSL.
const WGSL: &str = "naga 30.0.1 spirv1.6 unchecked; reflection 1";

/// One module to compile: a source file and one value for each of its axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) op: String,
    /// File in `kernels/`, or a path of its own for a probe.
    pub(crate) file: PathBuf,
    pub(crate) axes: Vec<(String, String)>,
}

impl Module {
    pub(crate) fn is_wgsl(&self) -> bool {
        self.file.extension().is_some_and(|extension| extension == "wgsl")
    }

    /// Preprocessor names the axis values define: `FORMAT=q4_k` defines `FORMAT_Q4_K`.
    pub(crate) fn defines(&self) -> Vec<String> {
        self.axes.iter().map(|(axis, value)| format!("{axis}_{}", value.to_uppercase())).collect()
    }

    fn format(&self) -> Option<&str> {
        self.axes.iter().find(|(axis, _)| axis == "FORMAT").map(|(_, value)| value.as_str())
    }

    /// Finds an included file: in `include/`, then in `formats/`; `format.glsl` is the format of the FORMAT axis.
    pub(crate) fn include(&self, shaders: &Path, name: &str) -> Result<(String, String)> {
        let candidates = match (name, self.format()) {
            ("format.glsl", Some(format)) => vec![format!("formats/{format}.glsl")],
            ("format.glsl", None) => bail!("includes format.glsl but has no FORMAT axis"),
            _ => vec![format!("include/{name}"), format!("formats/{name}")],
        };
        for path in &candidates {
            if let Ok(text) = fs::read_to_string(shaders.join(path)) {
                return Ok((path.clone(), text));
            }
        }
        bail!("includes {name}, which is not at {}", candidates.join(" nor at "))
    }

    /// Texts this module is made of: its own first, then everything it includes, in order of first mention.
    pub(crate) fn texts(&self, shaders: &Path) -> Result<Vec<(String, String)>> {
        let path = shaders.join("kernels").join(&self.file);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot read {}", self.name, path.display()))?;
        let mut texts = vec![(format!("kernels/{}", self.file.display()), text)];
        let mut seen = BTreeSet::new();
        let mut next = 0;
        while next < texts.len() {
            for name in included(&texts[next].1) {
                // A file that is missing may be included under a condition that does not hold; the compiler knows.
                if let Ok((path, text)) = self.include(shaders, &name)
                    && seen.insert(path.clone())
                {
                    texts.push((path, text));
                }
            }
            next += 1;
        }
        Ok(texts)
    }

    /// Hash of everything that determines the module.
    pub(crate) fn input_hash(&self, shaders: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        let mut put = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        put(if self.is_wgsl() { WGSL } else { GLSL });
        self.defines().iter().for_each(|define| put(define));
        for (path, text) in self.texts(shaders)? {
            put(&path);
            put(&text);
        }
        Ok(hex(&hash.finalize()))
    }
}

/// Names in `#include "name"` lines.
fn included(text: &str) -> Vec<String> {
    let quoted = |line: &str| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        let rest = rest.trim_start().strip_prefix('"')?;
        rest.split_once('"').map(|(name, _)| name.to_owned())
    };
    text.lines().filter_map(quoted).collect()
}

/// All modules of the table, by name. Rows that share a file and axis values share a module.
pub(crate) fn modules() -> Result<BTreeMap<String, Module>> {
    let mut modules = BTreeMap::new();
    for row in ROWS {
        for module in of_row(row)? {
            if let Some(other) = modules.insert(module.name.clone(), module.clone()) {
                ensure!(other == module, "table: two different modules are called {}", module.name);
            }
        }
    }
    Ok(modules)
}

fn of_row(row: &Row) -> Result<Vec<Module>> {
    let parts: Vec<&str> = row.file.split('.').collect();
    let [op, way, extension @ ("comp" | "wgsl")] = parts[..] else {
        bail!("table: {} is not called <op>.<way>.comp or <op>.<way>.wgsl", row.file);
    };
    ensure!(op == row.op, "table: {} belongs to op {op}, but its row says {}", row.file, row.op);
    ensure!(row.rows.0 <= row.rows.1, "table: {}: rows {:?} is no range", row.file, row.rows);
    ensure!(row.subgroup.0 <= row.subgroup.1, "table: {}: subgroup {:?} is no range", row.file, row.subgroup);
    ensure!(extension == "comp" || row.axes.is_empty(), "table: {}: WGSL has no preprocessor axes", row.file);
    let mut modules = vec![Module {
        name: format!("{op}.{way}"),
        op: op.to_owned(),
        file: row.file.into(),
        axes: Vec::new(),
    }];
    for &(axis, values) in row.axes {
        ensure!(!values.is_empty(), "table: {}: axis {axis} has no values", row.file);
        modules = modules
            .iter()
            .flat_map(|module| values.iter().map(move |value| with(module, axis, value)))
            .collect();
    }
    Ok(modules)
}

/// The module with one more axis.
pub(crate) fn with(module: &Module, axis: &str, value: &str) -> Module {
    let mut module = module.clone();
    module.name = format!("{}.{value}", module.name);
    module.axes.push((axis.to_owned(), value.to_owned()));
    module
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(file: &'static str) -> Row {
        Row { op: "op", file, axes: &[], spec: &[], rows: (1, 1), subgroup: (1, 64), class: "float", rank: 1 }
    }

    #[test]
    fn axes_multiply() {
        let axes: &[(&str, &[&str])] = &[("FORMAT", &["f32", "q4_k"]), ("ACT", &["f32", "q8"])];
        let modules = of_row(&Row { axes, ..row("op.way.comp") }).unwrap();
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["op.way.f32.f32", "op.way.f32.q8", "op.way.q4_k.f32", "op.way.q4_k.q8"]);
        assert_eq!(modules[3].defines(), ["FORMAT_Q4_K", "ACT_Q8"]);
        assert_eq!(modules[3].format(), Some("q4_k"));
    }

    #[test]
    fn rows_that_cannot_be_are_refused() {
        assert!(of_row(&row("other.way.comp")).unwrap_err().to_string().contains("belongs to op other"));
        assert!(of_row(&row("op.comp")).is_err());
        assert!(of_row(&Row { rows: (4, 2), ..row("op.way.comp") }).is_err());
        assert!(of_row(&Row { axes: &[("A", &["b"])], ..row("op.way.wgsl") }).is_err());
    }

    #[test]
    fn includes_are_found() {
        let text = "#include \"a.glsl\"\n  # include \"b.glsl\" // why\n// #include \"c.glsl\"\n#includes\n";
        assert_eq!(included(text), ["a.glsl", "b.glsl"]);
    }
}
