//! Which tensor type a matrix gets: one type for all, or a mix as quantisers write it.

use anyhow::bail;
use vkllm_shaders::formats::{FORMATS, Format, by_name};

/// What a matrix is for, as far as mixes care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Token embedding; `tied` when it is the output matrix too.
    Embedding {
        tied: bool,
    },
    Output,
    /// Value projection: the how-many-th of how many.
    Value {
        index: u32,
        of: u32,
    },
    /// Second half of a feed-forward block, dense, shared or routed.
    Down {
        index: u32,
        of: u32,
        experts: bool,
    },
    /// Other expert matrices.
    Experts,
    Other,
}

/// A choice of types.
pub(super) struct Mix {
    name: &'static str,
    /// The type of most matrices.
    base: &'static Format,
    /// The type of the matrices the mix spares.
    spared: &'static Format,
    /// `general.file_type`, informative.
    pub(super) file_type: u32,
}

impl Mix {
    /// A mix or a plain type by its name in small letters.
    pub(super) fn by_name(name: &str) -> anyhow::Result<Mix> {
        let known = |name: &'static str| match by_name(name) {
            Some(format) => Ok(format),
            None => bail!("the mix needs type {name}, which is not supported"),
        };
        match name {
            "q4_k_m" => {
                Ok(Mix { name: "q4_k_m", base: known("q4_k")?, spared: known("q6_k")?, file_type: 15 })
            }
            "mxfp4" => {
                Ok(Mix { name: "mxfp4", base: known("mxfp4")?, spared: known("q8_0")?, file_type: 38 })
            }
            _ => match by_name(name) {
                Some(format) => {
                    Ok(Mix { name: "", base: format, spared: format, file_type: file_type(format.name) })
                }
                None => {
                    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
                    bail!("no tensor type is named {name:?}; known are q4_k_m, {}", names.join(", "))
                }
            },
        }
    }

    /// The type of a matrix whose rows have `width` elements, in a model with experts or without.
    pub(super) fn format(&self, role: Role, width: u64, has_experts: bool) -> &'static Format {
        let spare = match (self.name, role) {
            ("q4_k_m", Role::Output | Role::Embedding { tied: true }) => true,
            ("q4_k_m", Role::Value { index, of } | Role::Down { index, of, .. }) => more_bits(index, of),
            ("mxfp4", Role::Experts | Role::Down { experts: true, .. }) => false,
            ("mxfp4", _) => has_experts,
            _ => false,
        };
        fitting(if spare { self.spared } else { self.base }, width)
    }
}

/// The layers a `_M` mix spares: the first eighth, the last eighth and every third between.
fn more_bits(index: u32, of: u32) -> bool {
    index < of / 8 || index >= 7 * of / 8 || (index - of / 8) % 3 == 2
}

/// The format itself, or what quantisers fall back to when rows are not whole blocks.
fn fitting(format: &'static Format, width: u64) -> &'static Format {
    if width.is_multiple_of(format.block as u64) {
        return format;
    }
    let next = match format.name {
        "q4_k" => "q5_0",
        "q5_k" => "q5_1",
        "q6_k" => "q8_0",
        _ if format.block == 256 => "iq4_nl",
        _ => "f16",
    };
    let next = by_name(next).or(by_name("q8_0").filter(|_| format.block == 256)).or(by_name("f16"));
    next.map_or(format, |next| if next.block < format.block { fitting(next, width) } else { format })
}

/// `general.file_type` of a file with one type, as GGUF tools number them; 0 (all F32) where none is assigned.
fn file_type(name: &str) -> u32 {
    match name {
        "f16" => 1,
        "q4_0" => 2,
        "q4_1" => 3,
        "q8_0" => 7,
        "q5_0" => 8,
        "q5_1" => 9,
        "q2_k" => 10,
        "q3_k" => 11,
        "q4_k" => 14,
        "q5_k" => 16,
        "q6_k" => 18,
        "iq2_xxs" => 19,
        "iq2_xs" => 20,
        "iq3_xxs" => 23,
        "iq1_s" => 24,
        "iq4_nl" => 25,
        "iq3_s" => 26,
        "iq2_s" => 28,
        "iq4_xs" => 30,
        "iq1_m" => 31,
        "bf16" => 32,
        "tq1_0" => 36,
        "tq2_0" => 37,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_spares_what_quantisers_spare() {
        let spared: Vec<u32> = (0..28).filter(|&i| more_bits(i, 28)).collect();
        assert_eq!(spared, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        // The two-layer mixes of the golden files.
        assert_eq!((more_bits(0, 2), more_bits(1, 2), more_bits(0, 1)), (false, true, true));
        let mix = Mix::by_name("q4_k_m").unwrap();
        let name = |role, width| mix.format(role, width, false).name;
        assert_eq!(name(Role::Embedding { tied: true }, 1024), "q6_k");
        assert_eq!(name(Role::Embedding { tied: false }, 1024), "q4_k");
        assert_eq!(name(Role::Output, 1024), "q6_k");
        assert_eq!(name(Role::Other, 1024), "q4_k");
        assert_eq!(name(Role::Other, 2880), "q5_0");
        assert_eq!(name(Role::Output, 2880), "q8_0");
        assert_eq!(name(Role::Other, 172), "f16");
    }

    #[test]
    fn mxfp4_is_for_experts_where_there_are_any() {
        let mix = Mix::by_name("mxfp4").unwrap();
        assert_eq!(mix.format(Role::Experts, 2880, true).name, "mxfp4");
        assert_eq!(mix.format(Role::Output, 2880, true).name, "q8_0");
        assert_eq!(mix.format(Role::Other, 4096, false).name, "mxfp4");
    }

    #[test]
    fn unknown_types_are_refused_with_the_known_ones() {
        let error = Mix::by_name("q9").err().unwrap().to_string();
        assert!(error.contains("q9") && error.contains("q4_k_m") && error.contains("q8_0"), "{error}");
    }
}
