//! The case as one file of C that needs nothing but Vulkan's headers and loader.

use std::fmt::Write;

use super::super::case::Case;
use super::super::spirv;
use super::{blocks_at, bound, is_float, start, title, tolerance};

/// The program, but for what is the case's own.
const PROGRAM: &str = include_str!("replay.c");

/// A program whose exit code is 0 for a match, 1 for a mismatch, 10 for a lost device, 11 for a hang, 12 for a failure to
/// compile and 125 where the device cannot run it.
///
/// Errors: SPIR-V that cannot be read.
pub fn c(case: &Case) -> Result<String, String> {
    let mut data = String::new();
    // Writing to a string cannot fail.
    let _ = write_data(case, &mut data, &spirv::words(case.capsule.kernel.spirv)?);
    let title = title(case).replace("*/", "* /");
    Ok(PROGRAM.replace("/* TITLE */", &format!("/* {title} */")).replace("/* DATA */", &data))
}

fn array(text: &mut String, name: &str, words: impl Iterator<Item = u32>) -> std::fmt::Result {
    write!(text, "static const uint32_t {name}[] = {{")?;
    let mut empty = true;
    for (at, word) in words.enumerate() {
        empty = false;
        write!(text, "{}{word:#x},", if at % 12 == 0 { "\n" } else { " " })?;
    }
    writeln!(text, "{}\n}};", if empty { "0" } else { "" })
}

fn write_data(case: &Case, text: &mut String, module: &[u32]) -> std::fmt::Result {
    let capsule = &case.capsule;
    array(text, "spirv", module.iter().copied())?;
    let (bindings, push) = bound(case);
    let words = push.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    array(text, "push", words)?;
    writeln!(text, "static const uint32_t push_size = {};", push.len())?;
    array(text, "spec_ids", case.manifest.specs.iter().map(|spec| spec.id))?;
    array(text, "spec_values", capsule.specs.iter().copied())?;
    writeln!(text, "static const uint32_t spec_count = {};", capsule.specs.len())?;
    writeln!(text, "static const uint32_t subgroup = {};", capsule.spec("SG").unwrap_or(0))?;
    let [x, y, z] = capsule.grid;
    writeln!(text, "static const uint32_t grid[3] = {{{x}, {y}, {z}}};")?;
    for (index, record) in case.manifest.pieces.iter().enumerate() {
        let run = |&(start, count): &(usize, usize)| [start as u32, count as u32];
        array(text, &format!("in_runs_{index}"), record.runs.iter().flat_map(run))?;
        array(text, &format!("out_runs_{index}"), record.written.iter().flat_map(run))?;
        let inputs =
            record.runs.iter().flat_map(|&(start, count)| &capsule.pieces[index].words[start..start + count]);
        array(text, &format!("in_{index}"), inputs.copied())?;
        let wanted =
            record.written.iter().flat_map(|&(start, count)| &case.expected[index][start..start + count]);
        array(text, &format!("want_{index}"), wanted.copied())?;
    }
    writeln!(text, "static const struct piece pieces[] = {{")?;
    for (index, record) in case.manifest.pieces.iter().enumerate() {
        writeln!(
            text,
            "{{{}u, {}u, in_runs_{index}, {}u, in_{index}, out_runs_{index}, {}u, want_{index}, {}, {}u, {:e}f}},",
            record.words,
            start(case, index),
            record.runs.len(),
            record.written.len(),
            blocks_at(case, index).map_or(u32::from(is_float(case, index)), |_| 2),
            blocks_at(case, index).unwrap_or(0),
            tolerance(case, index)
        )?;
    }
    writeln!(text, "}};\nstatic const struct binding bindings[] = {{")?;
    for bound in &bindings {
        writeln!(text, "{{{}u, {}u, {}u}},", bound.piece, bound.offset, bound.range)?;
    }
    writeln!(text, "}};\nenum {{ PIECES = {}, BINDINGS = {} }};", capsule.pieces.len(), bindings.len())?;
    let needs = ["fp16", "int8", "int16", "int64", "storage8", "storage16", "intdot", "memory-model"];
    for need in needs {
        let has = case.manifest.needs.iter().any(|name| name == need);
        writeln!(text, "enum {{ NEEDS_{} = {} }};", need.to_uppercase().replace('-', "_"), u32::from(has))?;
    }
    Ok(())
}
