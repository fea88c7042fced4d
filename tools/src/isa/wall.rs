//! What the machine code of the decode kernels allows on a Radeon 890M, against its memory. The formula stands in
//! docs/measurements/isa.md; it needs disassembly, so a Mesa whose LLVM knows gfx1150.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::child::{Pipeline, Question};
use super::{IsaArgs, ask_all, choose};

/// The 890M: compute units, vector units in each, lanes of one, clock in Hz.
const UNITS: f64 = 16.0;
const SIMDS: f64 = 2.0;
const LANES: f64 = 32.0;
const CLOCK: f64 = 2.9e9;
/// Bytes per clock that a compute unit's vector cache returns.
const CACHE: f64 = 64.0;
/// Bytes per second of 128-bit LPDDR5X-5600.
const MEMORY: f64 = 89.6e9;
/// Formats that most files have.
const FORMATS: [&str; 4] = ["q8_0", "q4_0", "q4_k", "q6_k"];

/// One loop of a kernel.
#[derive(Clone, Debug, Default, PartialEq)]
struct Loop {
    /// Cycles a vector unit issues instructions of one turn for: one each, four where it has a quarter of the lanes.
    cycles: u32,
    /// Those that load from buffers: bytes per lane and first scalar register of the buffer's descriptor.
    loads: Vec<(u32, u32)>,
    /// Loads issued before the first wait for one of them.
    ahead: u32,
    dots: u32,
}

/// What is needed of a format: weights and bytes of the unit that a lane decodes per turn.
struct Unit {
    weights: f64,
    bytes: f64,
}

pub(super) fn print(args: &IsaArgs) -> anyhow::Result<()> {
    let device = IsaArgs { device: vec!["890m".into()], ..args.clone() };
    let question = Question { filter: "linear.matvec.".into(), texts: true, set: Vec::new() };
    let answer = ask_all(args, &choose(&device)?, &question)?.remove(0).map_err(anyhow::Error::msg)?;
    println!(
        "{}, Mesa {}; limits in GB/s of weights, memory {}",
        answer.device,
        answer.version,
        MEMORY / 1e9
    );
    println!(
        "{:<10}{:<6}{:>5}{:>8}{:>7}{:>9}{:>6}{:>10}{:>9}{:>8}{:>8}",
        "format", "by", "rows", "B/load", "ahead", "KiB", "dot4", "issued/w", "issue", "cache", "share"
    );
    for format in FORMATS {
        let unit = unit_of(format)?;
        for operand in ["q8", "f32"] {
            for rows in [1, 2, 4, 8, 16] {
                let suffix = if rows == 1 { String::new() } else { format!(" ROWS={rows}") };
                let name = format!("linear.matvec.{format}.{operand} WG=128{suffix}");
                let pipeline = answer.pipelines.get(&name).with_context(|| format!("there is no {name}"))?;
                println!("{}", line(format, operand, rows, &unit, pipeline).with_context(|| name)?);
            }
        }
    }
    Ok(())
}

fn line(format: &str, operand: &str, rows: u32, unit: &Unit, pipeline: &Pipeline) -> anyhow::Result<String> {
    let text = pipeline.texts.last().map_or("", |(_, text)| text.as_str());
    let hot = hot_loop(text)
        .context("no loop with loads is in the machine code; this Mesa's LLVM may not know it")?;
    let waves =
        pipeline.statistics.iter().find(|(name, _)| name == "Subgroups per SIMD").map_or(0.0, |s| s.1);
    let weights = of_weights(&hot, unit.bytes);
    let of_weights: f64 = weights.iter().map(|&bytes| f64::from(bytes)).sum();
    let issue = UNITS * SIMDS * LANES * CLOCK * unit.bytes / f64::from(hot.cycles);
    let loaded: f64 = hot.loads.iter().map(|&(bytes, _)| f64::from(bytes)).sum();
    let cache = UNITS * CLOCK * CACHE * unit.bytes / loaded;
    let share = (issue.min(cache) / MEMORY).min(1.0);
    Ok(format!(
        "{format:<10}{operand:<6}{rows:>5}{:>8.1}{:>7}{:>9.0}{:>6}{:>10.1}{:>9.0}{:>8.0}{:>7.0}%",
        of_weights / weights.len() as f64,
        hot.ahead,
        waves * UNITS * SIMDS * LANES * of_weights / 1024.0,
        hot.dots,
        f64::from(hot.cycles) / unit.weights,
        issue / 1e9,
        cache / 1e9,
        share * 100.0
    ))
}

/// Bytes of each load of weights: of the buffer whose loads come closest to the bytes of a unit.
fn of_weights(hot: &Loop, unit: f64) -> Vec<u32> {
    let of = |buffer: u32| hot.loads.iter().filter(move |load| load.1 == buffer).map(|load| load.0);
    let distance = |buffer: u32| (of(buffer).sum::<u32>() as f64 - unit).abs();
    let closest = hot.loads.iter().map(|load| load.1).min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    closest.map(|buffer| of(buffer).collect()).unwrap_or_default()
}

/// Sizes from the format's decoder.
fn unit_of(format: &str) -> anyhow::Result<Unit> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../shaders/formats/{format}.glsl"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let value = |name: &str| -> anyhow::Result<f64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("{} defines no {name}", path.display()))?.trim().parse()?)
    };
    let weights = value("FORMAT_UNIT")?;
    ensure!(weights > 0.0, "the unit of {format} is empty");
    Ok(Unit { weights, bytes: value("FORMAT_BYTES")? / value("FORMAT_K")? * weights })
}

/// The loop with the most loads.
fn hot_loop(text: &str) -> Option<Loop> {
    let mut labels: Vec<(&str, usize)> = Vec::new();
    let mut code: Vec<(&str, &str)> = Vec::new();
    for line in text.lines() {
        let line = line.split(';').next().unwrap_or_default().trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.push((label, code.len()));
        } else if !line.is_empty() {
            code.push(
                line.split_once(char::is_whitespace).map_or((line, ""), |(op, rest)| (op, rest.trim())),
            );
        }
    }
    let back = |(at, (op, target)): (usize, &(&str, &str))| {
        let start = labels.iter().find(|(label, _)| label == target)?.1;
        (op.contains("branch") && start <= at).then(|| weigh(&code[start..=at]))
    };
    code.iter()
        .enumerate()
        .filter_map(back)
        .max_by_key(|hot| hot.loads.len())
        .filter(|hot| !hot.loads.is_empty())
}

fn weigh(code: &[(&str, &str)]) -> Loop {
    let mut hot = Loop::default();
    let mut waited = false;
    for (op, operands) in code {
        // They steer the sequencer and take no unit's time.
        if ["s_delay_alu", "s_clause", "s_nop"].contains(op) {
            continue;
        }
        if op.starts_with("s_wait") {
            waited |= !hot.loads.is_empty() && operands.contains("vmcnt");
            continue;
        }
        if let Some(bytes) = loaded(op) {
            hot.loads.push((bytes, descriptor(operands)));
            hot.ahead += u32::from(!waited);
        }
        hot.dots += u32::from(op.starts_with("v_dot4"));
        hot.cycles += if QUARTER.iter().any(|slow| op.starts_with(slow)) { 4 } else { 1 };
    }
    hot
}

/// Instructions that a vector unit runs at a quarter of its rate.
const QUARTER: &[&str] =
    &["v_mul_lo_u32", "v_mul_hi_", "v_rcp_", "v_rsq_", "v_sqrt_", "v_exp_", "v_log_", "v_sin_", "v_cos_"];

/// Bytes per lane that an instruction loads from a buffer.
fn loaded(op: &str) -> Option<u32> {
    let (_, width) = op.split_once("buffer_load_")?;
    Some(match width {
        "b128" => 16,
        "b96" => 12,
        "b64" => 8,
        "b32" => 4,
        _ => 2,
    })
}

/// First scalar register of the descriptor: the 16 of `v[12:15], v8, s[16:19], 0 offen`.
fn descriptor(operands: &str) -> u32 {
    let start = operands.split_once("s[").map_or("", |(_, rest)| rest);
    start.split(':').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "
BB0:
	buffer_load_b32 v0, v1, s[4:7], 0 offen                     ; e0
	s_branch BB2                                                ; bf
BB1:
	s_load_b256 s[16:23], s[14:15], null                        ; f4
	v_mul_lo_u32 v5, 0xd2, v5                                   ; d7
	s_waitcnt lgkmcnt(0)                                        ; bf
	s_clause 0x1                                                ; bf
	buffer_load_b128 v[12:15], v8, s[16:19], 0 offen offset:16  ; e0
	buffer_load_b96 v[36:38], v6, s[20:23], 0 offen             ; e0
	s_waitcnt vmcnt(1)                                          ; bf
	s_delay_alu instid0(VALU_DEP_1)                             ; bf
	v_dot4_i32_iu8 v44, v44, v25, 0 neg_lo:[1,1,0]              ; cc
	v_dual_mul_f32 v1, v2, v3 :: v_dual_add_f32 v4, v5, v6      ; c8
	buffer_load_b64 v[40:41], v6, s[20:23], 0 offen             ; e0
BB2:
	v_cmpx_le_u32_e32 s4, v3                                    ; 7d
	s_cbranch_scc1 BB1                                          ; bf
	s_endpgm                                                    ; bf
";

    #[test]
    fn a_loop_is_weighed() {
        let hot = hot_loop(CODE).unwrap();
        // s_load, quarter-rate multiplication, three loads, dot4, one dual instruction, comparison, branch.
        assert_eq!(hot.cycles, 1 + 4 + 3 + 1 + 1 + 1 + 1);
        assert_eq!(hot.loads, [(16, 16), (12, 20), (8, 20)]);
        assert_eq!((hot.ahead, hot.dots), (2, 1));
        assert_eq!(of_weights(&hot, 19.0), [12, 8]);
        assert_eq!(of_weights(&hot, 17.0), [16]);
        assert_eq!(hot_loop("BB0:\n\ts_endpgm ; bf\n"), None);
    }

    #[test]
    fn units_come_from_the_decoders() {
        for (format, weights, bytes) in [("q8_0", 32.0, 34.0), ("q4_k", 64.0, 36.0), ("q6_k", 128.0, 105.0)] {
            let unit = unit_of(format).unwrap();
            assert_eq!((unit.weights, unit.bytes), (weights, bytes), "{format}");
        }
    }
}
