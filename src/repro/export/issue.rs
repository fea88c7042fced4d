//! The case as the text of an issue, in the form that each tracker asks for.

use std::fmt::Write;

use vkllm_runtime::Executable;

use super::super::case::{Case, hex};
use super::super::judge::judge;
use super::super::pattern::pattern;
use sha2::{Digest, Sha256};

/// Whose tracker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracker {
    Mesa,
    Nvidia,
    Intel,
    MoltenVk,
}

impl Tracker {
    /// Every tracker, in order of declaration.
    pub const ALL: [Tracker; 4] = [Tracker::Mesa, Tracker::Nvidia, Tracker::Intel, Tracker::MoltenVk];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Tracker::Mesa => "mesa",
            Tracker::Nvidia => "nvidia",
            Tracker::Intel => "intel",
            Tracker::MoltenVk => "moltenvk",
        }
    }

    /// What its developers ask for and only the reporter can give.
    fn asks(self) -> &'static [&'static str] {
        match self {
            Tracker::Mesa => &[
                "Newest release tried, and git main if possible",
                "`lspci -nn` line of the GPU",
                "Last good and first bad version",
                "`RADV_DEBUG`, `ACO_DEBUG`, `RADV_PERFTEST` as set; does `RADV_DEBUG=llvm` differ",
                "For hangs: `dmesg` and the folder that `RADV_DEBUG=hang` writes",
            ],
            Tracker::Nvidia => {
                &["Output of `nvidia-bug-report.sh`", "Last good driver version", "Operating system"]
            }
            Tracker::Intel => &[
                "Newest driver tried",
                "Linux: `INTEL_DEBUG=cs` output, for hangs `/sys/class/drm/card*/error`; Windows: the SSU report",
                "Last good and first bad version",
            ],
            Tracker::MoltenVk => &[
                "macOS and MoltenVK versions",
                "Behaviour with `MVK_CONFIG_USE_METAL_ARGUMENT_BUFFERS=0`",
                "Metal shader as `MVK_CONFIG_DEBUG=1` logs it",
            ],
        }
    }
}

/// What a driver made of the case's kernel.
#[derive(Clone, Debug)]
pub struct Code {
    pub device: String,
    pub driver: String,
    pub executables: Vec<Executable>,
}

/// First words of an output that are shown.
const SHOWN: usize = 8;
/// Bytes of each machine code that are shown, so that trackers take the whole.
const MOST_CODE: usize = 10 << 10;

/// The text. `codes` are what drivers tell of the pipeline, if anything.
pub fn issue(case: &Case, tracker: Tracker, codes: &[Code]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_issue(case, tracker, codes, &mut text);
    text
}

fn write_issue(case: &Case, tracker: Tracker, codes: &[Code], text: &mut String) -> std::fmt::Result {
    let manifest = &case.manifest;
    let device = &manifest.device;
    writeln!(
        text,
        "# [{}] wrong result of compute shader {} (one dispatch)\n",
        device.name, manifest.kernel
    )?;
    if let Some(finding) = &manifest.finding {
        writeln!(text, "{finding}\n")?;
    }
    writeln!(
        text,
        "One compute dispatch, run alone, gives other values than the operation `{}` means. The attached case \
                    needs no model and no other program than its reader.\n",
        manifest.op
    )?;
    writeln!(
        text,
        "## Reproduce\n\n```\nvkllm repro run CASE      # exit code 1: mismatch, 0: match\n```\n\n\
                    Or without it: the attached Amber script, or `cc replay.c -o replay -ldl -lm && ./replay`.\n"
    )?;
    writeln!(text, "## Environment\n")?;
    let [major, minor, patch] = device.api;
    writeln!(
        text,
        "* Device: {} ({}), vendor {:#06x}, device {:#06x}",
        device.name, device.kind, device.vendor_id, device.device_id
    )?;
    writeln!(text, "* Driver: {}, Vulkan {major}.{minor}.{patch}", device.driver)?;
    writeln!(text, "* Host: {}", manifest.host)?;
    writeln!(
        text,
        "* Subgroups: {} used, {} to {} offered",
        device.subgroup, device.subgroup_range[0], device.subgroup_range[1]
    )?;
    writeln!(text, "* Features the shader uses: {}", manifest.needs.join(", "))?;
    writeln!(text, "* vkllm {} (shaders {})\n", manifest.vkllm, manifest.shaders)?;
    for asked in tracker.asks() {
        writeln!(text, "- [ ] {asked}:")?;
    }
    writeln!(text, "\n## Dispatch\n")?;
    let [x, y, z] = manifest.grid;
    writeln!(text, "* Workgroups: {x} × {y} × {z}")?;
    let specs: Vec<_> =
        manifest.specs.iter().map(|s| format!("{} (id {}) = {}", s.name, s.id, s.value)).collect();
    writeln!(text, "* Specialisation: {}", specs.join(", "))?;
    let push: Vec<_> = manifest.push.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    writeln!(text, "* Push constants: {}; raw {}", push.join(", "), manifest.push_hex)?;
    for (number, binding) in manifest.bindings.iter().enumerate() {
        writeln!(text, "* Binding {number}: {} ({}), {} bytes", binding.name, binding.access, binding.bytes)?;
    }
    if let Some(actual) = &case.actual {
        writeln!(text, "\n## Mismatches\n")?;
        let outputs = judge(&case.capsule, actual, &case.expected);
        for output in &outputs {
            let Some(pattern) = pattern(output, device.subgroup) else { continue };
            writeln!(text, "`{}`: {pattern}\n", output.binding)?;
            for wrong in output.wrong.iter().take(SHOWN) {
                writeln!(text, "* word {}: {}", wrong.index, wrong.text)?;
            }
        }
        if outputs.iter().all(|output| output.wrong.is_empty()) {
            writeln!(text, "None on the device that captured it.")?;
        }
    }
    for code in codes {
        write_code(code, text)?;
    }
    writeln!(text, "\n## Files\n\nSHA-256:\n\n* shader.spv {}", manifest.spirv_sha256)?;
    for (index, piece) in manifest.pieces.iter().enumerate() {
        writeln!(text, "* in_{index}.bin {}", piece.sha256)?;
    }
    let expected: Vec<u8> = case.written(&case.expected).flat_map(u32::to_le_bytes).collect();
    writeln!(text, "* all expected words {}", hex(&Sha256::digest(expected)))?;
    let data = if manifest.synthetic {
        "The data are made up."
    } else {
        "The data are those parts of a model's weights and activations that the dispatch touches; `--synthetic` replaces \
         them."
    };
    writeln!(text, "\n{data}")
}

/// Statistics, and the last text, which is the machine code.
fn write_code(code: &Code, text: &mut String) -> std::fmt::Result {
    for executable in &code.executables {
        writeln!(
            text,
            "\n## Made of it on {} ({}): {}, subgroups of {}\n",
            code.device, code.driver, executable.name, executable.subgroup
        )?;
        let statistics: Vec<_> =
            executable.statistics.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(text, "{}", statistics.join(", "))?;
        let Some((name, own)) = executable.texts.last() else { continue };
        let mut shown = own.len().min(MOST_CODE);
        while !own.is_char_boundary(shown) {
            shown -= 1;
        }
        let cut = own[..shown].rfind('\n').filter(|_| shown < own.len()).unwrap_or(shown);
        writeln!(text, "\n<details><summary>{name}</summary>\n\n```\n{}\n```\n", own[..cut].trim_end())?;
        if cut < own.len() {
            let lines = own[cut..].lines().filter(|line| !line.is_empty()).count();
            writeln!(text, "{lines} more lines.\n")?;
        }
        writeln!(text, "</details>")?;
    }
    Ok(())
}
