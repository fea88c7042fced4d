//! `vkllm selftest --explain OP`: which kernel this device would run for which work, and why not the others.

use std::collections::BTreeSet;
use std::io::Write;

use vkllm_runtime::Device;
use vkllm_shaders::ops::TABLE;
use vkllm_shaders::select::{Candidate, Refusal, Wanted, Why, explain};

use super::super::{Failure, input};

/// Rows at which some candidate begins or ends to be meant, up to here.
const MOST_ROWS: u32 = 512;

pub(super) fn print(op: &str, device: &Device, out: &mut dyn Write) -> Result<(), Failure> {
    let Some((_, candidates)) = TABLE.iter().find(|(name, _)| *name == op) else {
        let known: Vec<_> = TABLE.iter().map(|(name, _)| *name).collect();
        return Err(input(format!("--explain is \"{op}\"; allowed are {}", known.join(", "))));
    };
    let caps = device.caps();
    writeln!(out, "{op} on {} (subgroups of {})", caps.name, caps.subgroup)?;
    let works: BTreeSet<_> = candidates.iter().map(|c| (c.kernel.axes, c.class)).collect();
    for (axes, class) in works {
        let named: Vec<_> = axes.iter().map(|(axis, value)| format!("{axis} {value}")).collect();
        writeln!(out, "\n{}{}class {class}", named.join(", "), if named.is_empty() { "" } else { ", " })?;
        let has = |need| caps.has(need);
        let rows = |rows| Wanted {
            axes,
            rows,
            subgroup: caps.subgroup,
            class: Some(class),
            max_workgroup: caps.max_workgroup,
            has: &has,
            avoid: &caps.avoid,
        };
        for (first, last) in ranges(candidates) {
            let (chosen, refusals) = explain(candidates, &rows(first));
            let chosen = chosen.map_or_else(|| "no kernel".into(), describe);
            match last {
                Some(last) if last == first => writeln!(out, "  {first} rows: {chosen}")?,
                Some(last) => writeln!(out, "  {first} to {last} rows: {chosen}")?,
                None => writeln!(out, "  {first} rows and more: {chosen}")?,
            }
            for refusal in refusals.iter().filter(|refusal| tells(refusal)) {
                writeln!(out, "    {refusal}")?;
            }
        }
    }
    Ok(())
}

/// Kernels of other formats and classes are no alternatives.
fn tells(refusal: &Refusal) -> bool {
    !matches!(refusal.why, Why::Axis { .. } | Why::Class { .. })
}

fn describe(candidate: &'static Candidate) -> String {
    let spec: Vec<_> = candidate.spec.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let rank = candidate.rank;
    match spec.as_slice() {
        [] => format!("{} (rank {rank})", candidate.kernel.name),
        _ => format!("{} (rank {rank}; {})", candidate.kernel.name, spec.join(", ")),
    }
}

/// Ranges of rows within which no candidate begins or ends to be meant; the last has no end.
fn ranges(candidates: &[Candidate]) -> Vec<(u32, Option<u32>)> {
    let edges = candidates.iter().flat_map(|c| [c.rows.0, c.rows.1.saturating_add(1)]);
    let starts: BTreeSet<u32> = edges.chain([1]).filter(|row| (1..=MOST_ROWS).contains(row)).collect();
    let starts: Vec<u32> = starts.into_iter().collect();
    let ends = starts.iter().skip(1).map(|next| Some(next - 1)).chain([None]);
    starts.iter().copied().zip(ends).collect()
}
