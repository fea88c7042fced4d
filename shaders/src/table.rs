//! The table of kernels: which source, compiled along which axes, is meant for which work. Data only; it is
//! included by the shader compiler (`cargo xtask shaders`) and by this crate's build script as well.

/// One way to do an operation: a source file, its axes and the values this row fixes.
pub struct Row {
    /// Operation, the part of `file` before the first dot.
    pub op: &'static str,
    /// File in `kernels/`.
    pub file: &'static str,
    /// Preprocessor axes and their values; the cross product is compiled.
    pub axes: &'static [(&'static str, &'static [&'static str])],
    /// Specialisation values this row fixes.
    pub spec: &'static [(&'static str, u32)],
    /// Rows of a step it is meant for, both ends included.
    pub rows: (u32, u32),
    /// Subgroup sizes it is meant for, both ends included.
    pub subgroup: (u32, u32),
    /// Order class: reduction order, operand precision and activation rounding. Rows of one class agree bit for bit.
    pub class: &'static str,
    /// The highest rank among the rows that fit wins.
    pub rank: u32,
}

/// Any number of rows.
pub const ANY: (u32, u32) = (1, u32::MAX);
/// Any subgroup size Vulkan devices have.
pub const ANY_SUBGROUP: (u32, u32) = (1, 128);

const FORMATS: &[&str] = &[
    "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0",
    "mxfp4",
];
/// Formats that have an integer form.
const QUANTISED: &[&str] = FORMATS.split_at(3).1;

const fn one(op: &'static str, file: &'static str) -> Row {
    Row { op, file, axes: &[], spec: &[], rows: ANY, subgroup: ANY_SUBGROUP, class: "float", rank: 10 }
}

type Axes = &'static [(&'static str, &'static [&'static str])];
type Spec = &'static [(&'static str, u32)];

const ARITHMETIC: Axes = &[("SUMS", &["arithmetic"])];
/// For devices without arithmetic over subgroups.
const SHUFFLE: Axes = &[("SUMS", &["shuffle"])];

const fn sums(op: &'static str, file: &'static str, axes: Axes, rank: u32) -> Row {
    Row { axes, rank, ..one(op, file) }
}

const FLOAT: Axes = &[("FORMAT", FORMATS), ("ACT", &["f32"])];
/// Matrices of f16, for devices that multiply them in a subgroup.
const HALF: Axes = &[("FORMAT", FORMATS), ("ACT", &["f16"])];
const INT8: Axes = &[("FORMAT", QUANTISED), ("ACT", &["q8"])];
/// Subgroups of GPUs, and those of software drivers, where loads are dear and barriers dearer. A class name means one
/// order per device: no subgroup size belongs to both.
const WIDE: (u32, u32) = (17, 128);
const NARROW: (u32, u32) = (1, 16);

const fn linear(
    file: &'static str,
    axes: Axes,
    class: &'static str,
    rows: (u32, u32),
    subgroup: (u32, u32),
    spec: Spec,
) -> Row {
    Row { op: "linear", file, axes, spec, rows, subgroup, class, rank: 10 }
}

/// Several waves per workgroup, or a vocabulary would need more than 65535 workgroups. `ROWS` is left to the caller.
const MATVEC: Spec = &[("WG", 128), ("LANES", 16)];
/// 64 outputs by 64 rows, four by four per lane.
const TILED: Spec = &[("WG", 256), ("LANES", 16), ("OUTS", 4), ("ROWS", 64)];
/// Half the outputs, for devices with workgroups of 128; a sum is one lane's in either, so the bits are the same.
const TILED_SMALL: Spec = &[("WG", 128), ("LANES", 16), ("OUTS", 4), ("ROWS", 64)];
/// 128 outputs by 64 rows: every invocation decodes one unit of weights per step.
const COOP: Spec = &[("WG", 128), ("TILE_OUTS", 128), ("ROWS", 64)];
/// Wider tiles than four rows, or more outputs beside them, cost more to compile than they save.
const STRIP_1: Spec = &[("OUTS", 8), ("ROWS", 1)];
const STRIP_2: Spec = &[("OUTS", 4), ("ROWS", 2)];
const STRIP_4: Spec = &[("OUTS", 4), ("ROWS", 4)];

/// A kernel of attention; its rows are the (row, head) pairs of a step that read the same KV head.
const fn attention(file: &'static str, subgroup: (u32, u32), rows: (u32, u32), spec: Spec) -> Row {
    Row { op: "attention", file, axes: &[], spec, rows, subgroup, class: "float", rank: 10 }
}

/// Pairs that share what is loaded.
const PAIRS_1: Spec = &[("PAIRS", 1)];
const PAIRS_2: Spec = &[("PAIRS", 2)];
const PAIRS_4: Spec = &[("PAIRS", 4)];
const PAIRS_8: Spec = &[("PAIRS", 8)];

/// The way of last resort: the same code through shared memory in place of operations over subgroups, and past the
/// optimiser. It stands in for kernels that a device computes wrongly, with their bits where they reduce alike.
const SAFE: Axes = &[("WAY", &["safe"])];

const fn safe(op: &'static str, file: &'static str) -> Row {
    Row { axes: SAFE, rank: 1, ..one(op, file) }
}

/// All kernels.
pub const ROWS: &[Row] = &[
    Row { axes: &[("FORMAT", FORMATS)], ..one("embed", "embed.lookup.comp") },
    Row { axes: &[("FORMAT", FORMATS), ("WAY", &["safe"])], ..safe("embed", "embed.lookup.comp") },
    linear("linear.matvec.comp", FLOAT, "float", (1, 16), WIDE, MATVEC),
    linear("linear.matvec.comp", INT8, "int8", (1, 16), WIDE, MATVEC),
    linear("linear.tiled.comp", FLOAT, "prefill-float", ANY, WIDE, TILED),
    linear("linear.tiled.comp", INT8, "prefill-int8", ANY, WIDE, TILED),
    Row { rank: 5, ..linear("linear.tiled.comp", FLOAT, "prefill-float", ANY, WIDE, TILED_SMALL) },
    Row { rank: 5, ..linear("linear.tiled.comp", INT8, "prefill-int8", ANY, WIDE, TILED_SMALL) },
    linear("linear.strip.comp", FLOAT, "float", (1, 1), NARROW, STRIP_1),
    linear("linear.strip.comp", FLOAT, "float", (2, 2), NARROW, STRIP_2),
    linear("linear.strip.comp", FLOAT, "float", (3, 16), NARROW, STRIP_4),
    linear("linear.strip.comp", FLOAT, "prefill-float", ANY, NARROW, STRIP_4),
    linear("linear.strip.comp", INT8, "int8", (1, 1), NARROW, STRIP_1),
    linear("linear.strip.comp", INT8, "int8", (2, 2), NARROW, STRIP_2),
    linear("linear.strip.comp", INT8, "int8", (3, 16), NARROW, STRIP_4),
    linear("linear.strip.comp", INT8, "prefill-int8", ANY, NARROW, STRIP_4),
    linear("linear.coop.comp", HALF, "prefill-half", ANY, ANY_SUBGROUP, COOP),
    one("halve", "halve.rows.comp"),
    safe("halve", "halve.rows.comp"),
    one("norm", "norm.subgroup.comp"),
    safe("norm", "norm.subgroup.comp"),
    one("soft_cap", "soft_cap.map.comp"),
    safe("soft_cap", "soft_cap.map.comp"),
    one("quantize", "quantize.blocks.comp"),
    safe("quantize", "quantize.blocks.comp"),
    one("heads", "heads.subgroup.comp"),
    safe("heads", "heads.subgroup.comp"),
    attention("attention.strip.comp", NARROW, (1, 1), PAIRS_1),
    attention("attention.strip.comp", NARROW, (2, 2), PAIRS_2),
    attention("attention.strip.comp", NARROW, (3, 4), PAIRS_4),
    attention("attention.strip.comp", NARROW, (5, u32::MAX), PAIRS_8),
    attention("attention.chunk.comp", WIDE, (1, 1), PAIRS_1),
    attention("attention.chunk.comp", WIDE, (2, 2), PAIRS_2),
    // Eight pairs spill registers on some GPUs.
    attention("attention.chunk.comp", WIDE, (3, u32::MAX), PAIRS_4),
    // An order of its own on GPUs.
    Row { spec: PAIRS_2, subgroup: (1, 64), class: "safe", ..safe("attention", "attention.strip.comp") },
    one("attention_combine", "attention_combine.blocks.comp"),
    safe("attention_combine", "attention_combine.blocks.comp"),
    one("glu", "glu.blocks.comp"),
    safe("glu", "glu.blocks.comp"),
    one("route", "route.subgroup.comp"),
    safe("route", "route.subgroup.comp"),
    one("group", "group.subgroup.comp"),
    safe("group", "group.subgroup.comp"),
    one("experts_sum", "experts_sum.map.comp"),
    safe("experts_sum", "experts_sum.map.comp"),
    one("join", "join.map.comp"),
    safe("join", "join.map.comp"),
    one("altup", "altup.map.comp"),
    safe("altup", "altup.map.comp"),
    one("rescale", "rescale.subgroup.comp"),
    safe("rescale", "rescale.subgroup.comp"),
    one("sparsify", "sparsify.subgroup.comp"),
    safe("sparsify", "sparsify.subgroup.comp"),
    one("add", "add.map.comp"),
    safe("add", "add.map.comp"),
    one("conv", "conv.window.comp"),
    safe("conv", "conv.window.comp"),
    one("recurrence", "recurrence.columns.comp"),
    safe("recurrence", "recurrence.columns.comp"),
    one("hidden_put", "hidden_put.copy.comp"),
    safe("hidden_put", "hidden_put.copy.comp"),
    one("hidden_get", "hidden_get.copy.comp"),
    safe("hidden_get", "hidden_get.copy.comp"),
    one("gather", "gather.copy.wgsl"),
    Row { rank: 1, ..one("gather", "gather.plain.comp") },
    one("step_grid", "step_grid.max.wgsl"),
    Row { rank: 1, ..one("step_grid", "step_grid.plain.comp") },
    sums("argmax", "argmax.slices.comp", ARITHMETIC, 10),
    sums("argmax", "argmax.slices.comp", SHUFFLE, 5),
    safe("argmax", "argmax.slices.comp"),
    sums("sample_histogram", "sample_histogram.groups.comp", ARITHMETIC, 10),
    sums("sample_histogram", "sample_histogram.groups.comp", SHUFFLE, 5),
    safe("sample_histogram", "sample_histogram.groups.comp"),
    sums("sample_collect", "sample_collect.groups.comp", ARITHMETIC, 10),
    sums("sample_collect", "sample_collect.groups.comp", SHUFFLE, 5),
    safe("sample_collect", "sample_collect.groups.comp"),
    sums("sample", "sample.final.comp", ARITHMETIC, 10),
    sums("sample", "sample.final.comp", SHUFFLE, 5),
    safe("sample", "sample.final.comp"),
    one("sample_history", "sample_history.rows.comp"),
    safe("sample_history", "sample_history.rows.comp"),
    one("sample_penalize", "sample_penalize.window.comp"),
    safe("sample_penalize", "sample_penalize.window.comp"),
    one("sample_bias", "sample_bias.list.comp"),
    safe("sample_bias", "sample_bias.list.comp"),
    sums("sample_truncate", "sample_truncate.radix.comp", ARITHMETIC, 10),
    sums("sample_truncate", "sample_truncate.radix.comp", SHUFFLE, 5),
    safe("sample_truncate", "sample_truncate.radix.comp"),
    sums("sample_draw", "sample_draw.gumbel.comp", ARITHMETIC, 10),
    sums("sample_draw", "sample_draw.gumbel.comp", SHUFFLE, 5),
    safe("sample_draw", "sample_draw.gumbel.comp"),
    one("spread", "spread.map.comp"),
    safe("spread", "spread.map.comp"),
    one("verify_rows", "verify_rows.chain.comp"),
    safe("verify_rows", "verify_rows.chain.comp"),
    one("gate", "gate.sure.comp"),
    safe("gate", "gate.sure.comp"),
    one("accept", "accept.prefix.comp"),
    safe("accept", "accept.prefix.comp"),
    // What memory and arithmetic can do at most; no step uses them.
    one("probe_read", "probe_read.stream.comp"),
    one("probe_write", "probe_write.stream.comp"),
    one("probe_copy", "probe_copy.stream.comp"),
    Row { axes: &[("TYPE", &["f32", "f16"])], ..one("probe_fma", "probe_fma.chain.comp") },
    one("probe_dot", "probe_dot.chain.comp"),
];
