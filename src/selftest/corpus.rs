//! Faults of real drivers and compilers, met while running language models, and the cases that look for each of them.

use super::Case;

/// A fault that was reported.
#[derive(Debug)]
pub struct Bug {
    pub name: &'static str,
    /// Where it was reported; numbers alone are of llama.cpp.
    pub cites: &'static str,
    /// What happened, on what.
    pub story: &'static str,
    /// Beginnings of kernel names with parts of case names.
    looks: &'static [(&'static str, &'static str)],
}

/// Cases of each look that are run.
const EACH: usize = 4;

impl Bug {
    /// The cases that look for it.
    pub fn cases<'a>(&self, all: &'a [Case]) -> Vec<&'a Case> {
        let fits = |(kernel, part): &(&str, &str)| {
            let own = all
                .iter()
                .filter(|case| case.kernel().name.starts_with(kernel) && case.name().contains(part));
            own.take(EACH).collect::<Vec<_>>()
        };
        self.looks.iter().flat_map(fits).collect()
    }
}

const fn bug(
    name: &'static str,
    cites: &'static str,
    story: &'static str,
    looks: &'static [(&'static str, &'static str)],
) -> Bug {
    Bug { name, cites, story, looks }
}

/// All of them.
pub const BUGS: &[Bug] = &[
    bug(
        "half-products",
        "#17106, #18814",
        "Intel ANV: products in f16 overflow and text is gibberish",
        &[("linear", "activations of 60000")],
    ),
    bug(
        "vector-shuffle",
        "#19881",
        "AMD on Windows, RDNA 1 and 2: shuffles of parts of vectors take wrong lanes",
        &[("attention", "one-hot"), ("argmax.slices.shuffle", "first of the largest")],
    ),
    bug(
        "q2-q3-products",
        "#10710",
        "AMD on Windows, RDNA 1 and 2: products of q2_k and q3_k are wrong at random",
        &[
            ("linear.strip.q2_k", "one-hot"),
            ("linear.strip.q3_k", "one-hot"),
            ("linear.matvec.q2_k", "one-hot"),
            ("linear.matvec.q3_k", "one-hot"),
            ("linear.tiled.q3_k", "one-hot"),
        ],
    ),
    bug(
        "advertised-subgroups",
        "#15846, #20029",
        "MoltenVK on AMD: subgroup sums are wrong although advertised",
        &[("sample.final.arithmetic", "definition"), ("argmax.slices.arithmetic", "parts name")],
    ),
    bug(
        "long-subgroup-sum",
        "vllm-vulkan #22",
        "KosmicKrisp: sums over subgroups are wrong from K of about 1536",
        &[
            ("linear", "error bound n 33 k 2048"),
            ("linear", "error bound n 65 k 2048"),
            ("norm", "bound k 1024"),
        ],
    ),
    bug(
        "folded-constants",
        "#10984, MoltenVK #2423",
        "MoltenVK folds specialisation constants wrongly",
        &[("heads", "bound heads 4 kv 4 size 8"), ("linear", "epilogue")],
    ),
    bug(
        "gate-infinities",
        "#15498",
        "MoltenVK: a fused sigmoid makes infinities",
        &[("glu", "extremes are finite")],
    ),
    bug(
        "sort-of-large-rows",
        "llama.cpp argsort",
        "NVIDIA: sorting needs a use of shared memory that does nothing",
        &[("sample.final", "definition s tokens of 9000")],
    ),
    bug(
        "quantise-loop",
        "#22136",
        "Intel iGPU: a quantising loop loses the device",
        &[("quantize", "nearest codes"), ("heads", "quantises")],
    ),
    bug(
        "uneven-barrier",
        "#17389",
        "Intel iGPU: workgroups that end early at barriers lose the device",
        &[("quantize", "groups 9"), ("sample.final", "draw 3 alone")],
    ),
    bug(
        "masked-nan",
        "#12776",
        "Attention: -inf in masked scores becomes NaN",
        &[
            ("attention.strip", "unseen cells change nothing f16"),
            ("attention.chunk", "unseen cells change nothing f16"),
        ],
    ),
    bug(
        "half-scores",
        "#20589",
        "Attention computes scores in f16 although f32 was asked for",
        &[("attention.strip", "scores of any size")],
    ),
    bug(
        "ignored-precision",
        "#28124",
        "A precision that was asked for is ignored",
        &[("linear", "subnormal scales")],
    ),
    bug(
        "shared-overrun",
        "#17055",
        "Products of experts write beyond shared memory",
        &[("linear.tiled", "integers"), ("linear", "again with other poison")],
    ),
    bug(
        "narrow-subgroups",
        "#10809",
        "Code for subgroups of 32 runs on smaller ones",
        &[("attention_combine", "parts together"), ("attention.chunk", "whole numbers")],
    ),
    bug(
        "push-constant-size",
        "#18634",
        "The push block of the host is not that of the shader",
        &[("linear", "residual true pad 3"), ("gather", "copies bits")],
    ),
    bug(
        "wave-size-of-matrices",
        "#16339, #27314",
        "RADV: code assumes a size of subgroups that the compiler changed",
        &[("linear.tiled", "error bound"), ("linear.strip.q4_k", "permuted rows")],
    ),
];
