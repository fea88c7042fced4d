//! The case as a script for Amber, the tool that graphics drivers are tested with.

use std::fmt::Write;

use super::super::case::Case;
use super::super::spirv::assembly;
use super::{bound, is_float, title, tolerance, words};

/// Words of a buffer that stand in the script; larger ones are files beside it.
const INLINE: usize = 1 << 16;

/// The script, and files that must lie beside it.
///
/// Errors: SPIR-V that cannot be read.
pub fn amber(case: &Case, stem: &str) -> Result<(String, Vec<(String, Vec<u8>)>), String> {
    let capsule = &case.capsule;
    let mut text = String::from("#!amber\n");
    let mut files = Vec::new();
    // Writing to a string cannot fail.
    let _ = write_script(case, stem, &mut text, &mut files, &assembly(capsule.kernel.spirv)?);
    Ok((text, files))
}

fn write_script(
    case: &Case,
    stem: &str,
    text: &mut String,
    files: &mut Vec<(String, Vec<u8>)>,
    assembly: &str,
) -> std::fmt::Result {
    let capsule = &case.capsule;
    writeln!(text, "# {}", title(case))?;
    if let Some(finding) = &case.manifest.finding {
        writeln!(text, "# {}", finding.replace('\n', " "))?;
    }
    let has = |name: &str| case.manifest.needs.iter().any(|need| need == name);
    let features = [
        ("fp16", "Float16Int8Features.shaderFloat16"),
        ("int8", "Float16Int8Features.shaderInt8"),
        ("int16", "shaderInt16"),
        ("int64", "shaderInt64"),
        ("storage8", "Storage8BitFeatures.storageBuffer8BitAccess"),
        ("storage16", "Storage16BitFeatures.storageBuffer16BitAccess"),
    ];
    for (_, feature) in features.iter().filter(|(need, _)| has(need)) {
        writeln!(text, "DEVICE_FEATURE {feature}")?;
    }
    if has("intdot") {
        writeln!(text, "DEVICE_EXTENSION VK_KHR_shader_integer_dot_product")?;
    }
    let subgroup = capsule.spec("SG");
    if subgroup.is_some() {
        writeln!(text, "DEVICE_FEATURE SubgroupSizeControl.subgroupSizeControl")?;
        writeln!(text, "DEVICE_FEATURE SubgroupSizeControl.computeFullSubgroups")?;
    }
    writeln!(text, "SET ENGINE_DATA fence_timeout_ms 60000\n")?;
    let version = capsule.kernel.spirv.get(4..8).map_or(0, |version| version[1]);
    writeln!(text, "SHADER compute kernel SPIRV-ASM TARGET_ENV spv1.{version}\n{assembly}END\n")?;
    for (index, record) in case.manifest.pieces.iter().enumerate() {
        let float = is_float(case, index);
        // What is no number has no literal; where it is written over it does not matter.
        let numbers = words(case, index);
        let size = numbers.len();
        let kind = if float { "float" } else { "uint32" };
        writeln!(text, "# {}", record.name.replace('\n', " "))?;
        if size > INLINE {
            let name = format!("{stem}_{index}.bin");
            writeln!(text, "BUFFER piece_{index} DATA_TYPE {kind} SIZE {size} FILE BINARY {name}\n")?;
            files.push((name, numbers.iter().flat_map(|word| word.to_le_bytes()).collect()));
            continue;
        }
        write!(text, "BUFFER piece_{index} DATA_TYPE {kind} DATA")?;
        for (at, word) in numbers.iter().enumerate() {
            text.push(if at % 8 == 0 { '\n' } else { ' ' });
            let value = f32::from_bits(*word);
            match float {
                true if value.is_finite() => write!(text, "{value:?}")?,
                true => write!(text, "0.0")?,
                false => write!(text, "{word}")?,
            }
        }
        writeln!(text, "\nEND\n")?;
    }
    let (bindings, push) = bound(case);
    if !push.is_empty() {
        writeln!(text, "BUFFER push DATA_TYPE uint32 DATA")?;
        for word in push.chunks_exact(4) {
            write!(text, "{} ", u32::from_le_bytes([word[0], word[1], word[2], word[3]]))?;
        }
        writeln!(text, "\nEND\n")?;
    }
    write!(text, "PIPELINE compute pipeline\n  ATTACH kernel ENTRY_POINT main")?;
    for spec in &case.manifest.specs {
        write!(text, " SPECIALIZE {} AS uint32 {}", spec.id, spec.value)?;
    }
    writeln!(text)?;
    if let Some(lanes) = subgroup {
        writeln!(text, "  SUBGROUP kernel\n    REQUIRED_SIZE {lanes}\n  END")?;
    }
    for (number, bound) in bindings.iter().enumerate() {
        writeln!(
            text,
            "  BIND BUFFER piece_{} AS storage DESCRIPTOR_SET 0 BINDING {number} DESCRIPTOR_OFFSET {} DESCRIPTOR_RANGE {}",
            bound.piece, bound.offset, bound.range
        )?;
    }
    if !push.is_empty() {
        writeln!(text, "  BIND BUFFER push AS push_constant")?;
    }
    let [x, y, z] = capsule.grid;
    writeln!(text, "END\n\nRUN pipeline {x} {y} {z}\n")?;
    for (index, record) in case.manifest.pieces.iter().enumerate() {
        let (float, near) = (is_float(case, index), tolerance(case, index));
        for &(start, count) in &record.written {
            for part in (start..start + count).step_by(64) {
                let end = (part + 64).min(start + count);
                let at = super::start(case, index) + part as u64 * 4;
                write!(text, "EXPECT piece_{index} IDX {at}")?;
                if float {
                    write!(text, " TOLERANCE {near:?}")?;
                }
                write!(text, " EQ")?;
                for word in &case.expected[index][part..end] {
                    let value = f32::from_bits(*word);
                    let value = if value.is_finite() { value } else { 0.0 };
                    if float { write!(text, " {value:?}")? } else { write!(text, " {word}")? }
                }
                writeln!(text)?;
            }
        }
    }
    Ok(())
}
