//! A row has the same bits whatever stands beside it, in every class of every format.

use std::collections::BTreeSet;

use vkllm_runtime::{Caps, DeviceKind, Kernel};
use vkllm_shaders::ops::linear::CANDIDATES;
use vkllm_shaders::select::{Candidate, Wanted, select};

use super::super::compare::bits;
use super::super::weights::{Act, Activations, Scales, act_of, format_of, weights};
use super::super::{Bench, Check, Fault, List};
use super::{Product, random_rows};

/// Rows of the step that others are compared with.
const ALL: usize = 65;
/// First row and number of rows of steps: every number up to 16, then tiles.
const TILES: &[(usize, usize)] = &[(64, 1), (63, 2), (60, 5), (49, 16), (0, 17), (32, 33), (0, 48), (1, 64)];
/// Formats of which the kernels of GPUs are shown to be invariant on software drivers.
const FOREIGN_FORMATS: &[&str] = &["f16", "q8_0", "q4_k"];

/// Kernels of an order class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Family {
    format: &'static str,
    act: Act,
    class: &'static str,
    /// Subgroup size to choose for.
    lanes: u32,
}

pub(super) fn list(list: &mut List<'_>) {
    let own = list.caps.subgroup;
    // Wide enough for the kernels of GPUs, narrow enough for the others.
    let other = if own > 16 { 8 } else { 32 };
    let software = matches!(list.caps.kind, DeviceKind::Cpu | DeviceKind::Reference);
    let mut families = BTreeSet::new();
    for candidate in CANDIDATES {
        let (format, act) = (candidate.kernel.axis("FORMAT"), act_of(candidate));
        let here = |lanes| (candidate.subgroup.0..=candidate.subgroup.1).contains(&lanes);
        let family = |lanes| Family { format, act, class: candidate.class, lanes };
        if here(own) {
            families.insert(family(own));
        } else if software && here(other) && FOREIGN_FORMATS.contains(&format) {
            families.insert(family(other));
        }
    }
    for family in families {
        let every: Vec<(usize, usize)> =
            (1..=16).map(|rows| (3 * rows % 49, rows)).chain(TILES.iter().copied()).collect();
        // A foreign row count is a pipeline that nothing else needs; one of many rows takes a minute to compile in software.
        let (all_rows, some) = match family.class {
            _ if family.lanes == own => (ALL, every),
            class if class.starts_with("prefill") => (ALL, vec![(9, 3), (64, 1), (49, 16), (0, 17), (1, 64)]),
            _ => (4, vec![(1, 3), (3, 1)]),
        };
        let Some(all) = chosen(family, list.caps, all_rows) else { continue };
        for (first, rows) in some {
            let Some(candidate) = chosen(family, list.caps, rows) else { continue };
            let mut kernels: Vec<&'static Kernel> = vec![candidate.kernel];
            if !std::ptr::eq(candidate.kernel, all.kernel) {
                kernels.push(all.kernel);
            }
            let Family { class, .. } = family;
            let property = format!("rows {first} to {} alone and among {all_rows} {class}", first + rows - 1);
            list.add(&kernels, property, move |bench| {
                invariant(bench, family, (candidate, first, rows), (all, all_rows))
            });
        }
    }
}

/// The kernel that a step of `rows` rows takes.
fn chosen(family: Family, caps: &Caps, rows: usize) -> Option<&'static Candidate> {
    let axes = [("FORMAT", family.format), ("ACT", family.act.axis())];
    let rows = if family.class.starts_with("prefill") { rows } else { rows.min(16) } as u32;
    let has = |need| caps.has(need);
    let wanted = Wanted {
        axes: &axes,
        rows,
        subgroup: family.lanes,
        class: Some(family.class),
        max_workgroup: caps.max_workgroup,
        has: &has,
        avoid: &[],
    };
    select(CANDIDATES, &wanted).ok()
}

fn invariant(
    bench: &Bench,
    family: Family,
    (candidate, first, rows): (&'static Candidate, usize, usize),
    (all, all_rows): (&'static Candidate, usize),
) -> Check {
    let Family { format: name, act, class, .. } = family;
    let format = format_of(candidate);
    let mut rng = bench.rng(&format!("{name} {act:?} {class}"));
    let (n, k) = (67, if format.block == 1 && act != Act::F16 { 76 } else { 2 * format.block.max(64) });
    let bytes = weights(&mut rng, format, n, k, Scales::Plausible);
    let x = random_rows(&mut rng, act, all_rows, k);
    let (bias, residual) = (rng.normals(n), rng.normals((all_rows + 1) * n));
    let run = |candidate: &'static Candidate, first: usize, rows: usize| -> Check<Vec<u32>> {
        let words = x.words[first * x.stride..][..rows * x.stride].to_vec();
        let x = Activations { words, values: Vec::new(), stride: x.stride };
        let product = Product {
            bias: Some(bias.clone()),
            residual: Some(residual[first * n..].to_vec()),
            ..Product::plain(candidate, (n, k, rows), bytes.clone(), x)
        };
        Ok(product.job(bench).on(bench)?.words("y")[..rows * n].to_vec())
    };
    let (some, all) = (run(candidate, first, rows)?, run(all, 0, all_rows)?);
    let among = all.get(first * n..(first + rows) * n).ok_or_else(|| Fault::Wrong("no such rows".into()))?;
    bits(&format!("{name} {act:?} {class}"), &some, among)
}
