//! The arithmetic of sampling, operation for operation as in `include/sampler.glsl`, so that a token chosen here is
//! the token every device chooses from the same logits.

use vkllm_runtime::Words;

use crate::records::Sampler;

/// Marks that no token can be chosen.
pub const NO_TOKEN: u32 = u32::MAX;
/// `StepRow.flags`: the row moves on to the chosen token.
pub const ROW_ADVANCE: u32 = 1;
/// `StepRow.flags`: the row stands for nothing.
pub const ROW_IDLE: u32 = 2;
/// Ids per partial result of `argmax`, and words of a partial result.
pub const SLICE: usize = 512;
pub const PARTIAL_WORDS: usize = 3;
/// Slices per workgroup of the stages between `argmax` and `sample`.
pub const GROUP: usize = 8;
/// Words of the header between partial results and bins.
pub const HEAD_WORDS: usize = 16;
/// Bins of the histogram, and words of a bin.
pub const BINS: usize = 1024;
pub const BIN_WORDS: usize = 3;
/// Marks that a truncation does not end in any bin.
pub const NO_BIN: u32 = u32::MAX;
/// Distances from which the mass is zero.
pub const NEGLIGIBLE: f32 = 21.5;
/// What a random word is for: the draw of a token.
pub const PURPOSE_DRAW: u32 = 0;
/// What a random word is for: the draw of a drafter on its own.
pub const PURPOSE_DRAFT: u32 = 1;
/// What a random word is for: whether a draft is accepted.
pub const PURPOSE_ACCEPT: u32 = 2;
/// What a random word is for: the token in place of one that is not.
pub const PURPOSE_REST: u32 = 3;

/// Words of a record of `results`: token, ln p, position, segment.
pub const RESULT_WORDS: usize = 4;

/// Where the parts of a row's working record begin, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Partial results of `argmax`, at word 0.
    pub slices: usize,
    /// Workgroups of the stages between `argmax` and `sample`.
    pub groups: usize,
    pub head: usize,
    pub bins: usize,
    pub draws: usize,
    pub list: usize,
}

impl Layout {
    /// For a vocabulary of `n` tokens.
    pub fn new(n: usize) -> Self {
        let slices = n.div_ceil(SLICE);
        let groups = slices.div_ceil(GROUP);
        let head = slices * PARTIAL_WORDS;
        let bins = head + HEAD_WORDS;
        let draws = bins + BINS * BIN_WORDS;
        Layout { slices, groups, head, bins, draws, list: draws + 2 * groups }
    }
}

/// The record `samplers[index]`.
pub fn sampler(samplers: Words<'_>, index: u32) -> Sampler {
    let words: [u32; 16] = std::array::from_fn(|word| samplers.u32(index as usize * 16 + word));
    bytemuck::cast(words)
}

/// Maps the bits of a logit to an integer of the same order; both zeros are one. `None`: it cannot be chosen.
pub fn key_of(bits: u32) -> Option<u32> {
    let value = f32::from_bits(bits);
    if value.is_nan() || value == f32::NEG_INFINITY {
        None
    } else if value == 0.0 {
        Some(0x8000_0000)
    } else {
        Some(if bits >> 31 != 0 { !bits } else { bits | 0x8000_0000 })
    }
}

/// The logit of a key, within limits that keep differences finite.
pub fn logit_of(key: u32) -> f32 {
    let bits = if key >> 31 != 0 { key & 0x7fff_ffff } else { !key };
    f32::from_bits(bits).clamp(-1.0e38, 1.0e38)
}

/// How far below the row's largest logit a logit is.
pub fn distance_of(key: u32, top: u32) -> f32 {
    logit_of(top) - logit_of(key)
}

/// exp(-distance) in units of 2^-31.
pub fn mass_of(distance: f32) -> u32 {
    if distance >= NEGLIGIBLE {
        return 0;
    }
    let n = (distance * std::f32::consts::LOG2_E + 0.5).floor();
    let r = (distance - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut q = 0.001_395_171_5_f32;
    for c in [-0.008_369_598, 0.041_666_187, -0.166_665_12, 0.5] {
        q = q * r + c;
    }
    let e = (q * r) * r - r + 1.0;
    (e * f32::from_bits((127 - n as u32) << 23) * 2_147_483_648.0) as u32
}

/// A distance in units of 2^-14, as far as it has mass.
pub fn far_of(distance: f32) -> u32 {
    (distance.min(NEGLIGIBLE) * 16384.0) as u32
}

/// ln(1 + f) for f in [√½ - 1, √2 - 1].
fn ln_near_one(f: f32) -> f32 {
    let mut q = -0.078_365_81_f32;
    for c in [
        0.130_237_68,
        -0.132_126_11,
        0.141_608_63,
        -0.166_104_51,
        0.200_031_24,
        -0.250_015_5,
        0.333_333_08,
        -0.499_999_88,
    ] {
        q = q * f + c;
    }
    (q * f) * f + f
}

/// ln(x) for normal x > 0.
pub fn ln_of(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23;
    let f = f32::from_bits(bits.wrapping_sub((exponent as u32) << 23)) - 1.0;
    let n = exponent as f32;
    n * 0.693_359_4 + (ln_near_one(f) - n * 2.121_944_4e-4)
}

/// Gumbel noise of a random word.
pub fn gumbel_of(word: u32) -> f32 {
    let complement = (word as f32 + 0.5) * 2.328_306_4e-10;
    let u = (!word as f32 + 0.5) * 2.328_306_4e-10;
    -ln_of(if complement < 0.29 { -ln_near_one(-complement) } else { -ln_of(u) })
}

/// What decides between tokens that survived truncation; the largest score wins.
pub fn score_of(distance: f32, inverse_temperature: f32, word: u32) -> f32 {
    gumbel_of(word) - distance.min(1.0e30) * inverse_temperature
}

/// The bin of a distance: 1/16 wide up to 16, then twice as wide with each doubling of distance + 16.
pub fn bin_of(distance: f32) -> u32 {
    (((distance + 16.0).to_bits() - 16.0_f32.to_bits()) >> 15).min(BINS as u32 - 1)
}

/// A 64-bit sum in units of 2^32.
pub fn float_of(sum: u64) -> f32 {
    (sum as u32) as f32 * 2.328_306_4e-10 + (sum >> 32) as f32
}

/// a · share / 2^32, rounded down, but at least 1.
pub fn share_of(mass: u64, share: u32) -> u64 {
    (((u128::from(mass) * u128::from(share)) >> 32) as u64).max(1)
}

/// Philox4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [(0xD251_1F53, counter[0]), (0xCD9E_8D57, counter[2])].map(|(m, c)| m * u64::from(c));
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// The random word of a token id at a position.
pub fn philox_token(sampler: &Sampler, position: u32, id: u32, purpose: u32) -> u32 {
    let counter = [(id >> 8) * 64 + (id & 63), position, purpose, 0];
    philox(counter, [sampler.seed_low, sampler.seed_high])[(id >> 6 & 3) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers from `tests/kat_vectors` of the Random123 distribution (lines `philox4x32 10`).
    #[test]
    fn philox_has_the_published_answers() {
        let all = u32::MAX;
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([all; 4], [all; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn keys_order_logits() {
        let values = [f32::MIN, -1.0e4, -1.0, -1.0e-40, 0.0, 1.0e-40, 1.0, 1.0e4, f32::MAX, f32::INFINITY];
        let keys: Vec<u32> = values.iter().filter_map(|v| key_of(v.to_bits())).collect();
        assert_eq!(keys.len(), values.len());
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:x?}");
        assert!(values[..9].iter().zip(&keys).all(|(v, &key)| logit_of(key) == v.clamp(-1.0e38, 1.0e38)));
        assert_eq!(key_of((-0.0_f32).to_bits()), key_of(0));
        assert!([f32::NAN, -f32::NAN, f32::NEG_INFINITY].iter().all(|v| key_of(v.to_bits()).is_none()));
    }

    #[test]
    fn polynomials_are_close_to_exp_and_ln() {
        for i in 0..=43_000 {
            let d = i as f32 / 2_000.0;
            let exact = (-f64::from(d)).exp() * 2_147_483_648.0;
            let found = f64::from(mass_of(d));
            assert!((found - exact).abs() <= 1.0 + 2.0e-7 * exact, "mass of {d}: {found}, not {exact}");
        }
        for i in 1..40_000_u32 {
            let x = f32::from_bits(i * 50_000 + 0x0080_0000);
            let (exact, found) = (f64::from(x).ln(), f64::from(ln_of(x)));
            assert!((found - exact).abs() <= 2.0e-7 * exact.abs().max(0.05), "ln {x}: {found}, not {exact}");
        }
        for i in 0..40_000_u32 {
            let word = i.wrapping_mul(0x9E37_79B9);
            let v = (f64::from(word) + 0.5) / 4_294_967_296.0;
            let (exact, found) = (-(-(-v).ln_1p()).ln(), f64::from(gumbel_of(word)));
            assert!((found - exact).abs() <= 3.0e-6, "noise of {word}: {found}, not {exact}");
        }
        assert!(gumbel_of(0) > 22.0 && gumbel_of(u32::MAX) < -3.0);
    }

    #[test]
    fn bins_are_monotone() {
        let bins: Vec<u32> = (0..100_000).map(|i| bin_of(i as f32 * 0.003)).collect();
        assert!(bins.is_sorted() && bins[0] == 0 && bins[99_999] == 1023);
    }
}
