//! The types of cached keys and values: how the pools hold them and what their blocks mean. Layout: `include/kv.glsl`.

use half::{bf16, f16};
use vkllm_runtime::Words;

use super::KV_BLOCK;
use crate::formats::NON_LINEAR;

/// A type of cached keys or values. Its index in [`KV_FORMATS`] is the value of `K_TYPE` and `V_TYPE`.
pub struct KvFormat {
    /// Name as users type it.
    pub name: &'static str,
    /// Elements that share a scale; the size of a head is a multiple of it.
    pub block: usize,
    /// Bits of an element's code, without a fifth.
    pub bits: usize,
    /// Codes have a fifth bit.
    pub fifth: bool,
    /// f16 numbers per block: none, the scale, or the scale and the minimum.
    pub halves: usize,
    /// What codes mean.
    pub code: KvCode,
}

/// What the codes of a type mean.
pub enum KvCode {
    /// A code is a floating-point number.
    Float { encode: fn(f32) -> u32, decode: fn(u32) -> f32 },
    /// An element is the scale times the level of its code, plus the minimum.
    Block { quantise: fn(&[f32]) -> KvBlock, level: fn(u8) -> f32 },
}

/// A quantised block of 32.
#[derive(Clone, Debug, PartialEq)]
pub struct KvBlock {
    pub d: f16,
    pub m: f16,
    pub codes: Vec<u8>,
}

const fn float(name: &'static str, bits: usize, encode: fn(f32) -> u32, decode: fn(u32) -> f32) -> KvFormat {
    KvFormat { name, block: 1, bits, fifth: false, halves: 0, code: KvCode::Float { encode, decode } }
}

const fn blocks(
    name: &'static str,
    (bits, fifth, halves): (usize, bool, usize),
    quantise: fn(&[f32]) -> KvBlock,
    level: fn(u8) -> f32,
) -> KvFormat {
    KvFormat { name, block: 32, bits, fifth, halves, code: KvCode::Block { quantise, level } }
}

/// All types. Floats saturate and round to nearest, ties to even.
pub static KV_FORMATS: [KvFormat; 9] = [
    float("f32", 32, f32::to_bits, f32::from_bits),
    float("f16", 16, |x| u32::from(to_half(x).to_bits()), |code| f16::from_bits(code as u16).to_f32()),
    float(
        "bf16",
        16,
        |x| u32::from(bf16::from_f32(x.clamp(-LARGEST_BF16, LARGEST_BF16)).to_bits()),
        |code| bf16::from_bits(code as u16).to_f32(),
    ),
    blocks("q8_0", (8, false, 1), q8_0, |code| f32::from(code as i8)),
    blocks("q5_1", (4, true, 2), |x| ranged(x, 31.0), f32::from),
    blocks("q5_0", (4, true, 1), |x| centred(x, 16.0), |code| f32::from(code) - 16.0),
    blocks("q4_1", (4, false, 2), |x| ranged(x, 15.0), f32::from),
    blocks("q4_0", (4, false, 1), |x| centred(x, 8.0), |code| f32::from(code) - 8.0),
    blocks("iq4_nl", (4, false, 1), iq4_nl, |code| f32::from(NON_LINEAR[usize::from(code)])),
];

/// Blocks saturate here: their scales would be infinite long before.
const LARGEST_IN_BLOCK: f32 = 1e9;
const LARGEST_BF16: f32 = 3.389_531_4e38;

fn to_half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

/// A scale or minimum; zero has no sign.
fn scale(x: f32) -> f16 {
    let half = to_half(x);
    if half == f16::ZERO { f16::ZERO } else { half }
}

/// Below 1e-30 the reciprocal would overflow, and f16 holds no scale anyway.
fn inverse(d: f32) -> f32 {
    if d.abs() >= 1e-30 { 1.0 / d } else { 0.0 }
}

/// The first element that is farthest from zero.
fn farthest(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0, |far: f32, x| if x.abs() > far.abs() { x } else { far })
}

/// Codes are to nearest, ties away from zero.
fn q8_0(x: &[f32]) -> KvBlock {
    let d = farthest(x).abs() / 127.0;
    let inverse = inverse(d);
    let codes = x.iter().map(|x| (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8).collect();
    KvBlock { d: scale(d), m: f16::ZERO, codes }
}

/// Codes of 2 · `middle` levels, the farthest element at code 0; to nearest, ties up.
fn centred(x: &[f32], middle: f32) -> KvBlock {
    let d = farthest(x) / -middle;
    let inverse = inverse(d);
    let code = |x: &f32| (x * inverse + (middle + 0.5)).clamp(0.0, 2.0 * middle - 1.0) as u8;
    KvBlock { d: scale(d), m: f16::ZERO, codes: x.iter().map(code).collect() }
}

/// Codes 0 to `most` from the smallest element to the largest; to nearest, ties up.
fn ranged(x: &[f32], most: f32) -> KvBlock {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (high - low) / most;
    let inverse = inverse(d);
    let code = |x: &f32| ((x - low) * inverse + 0.5).clamp(0.0, most) as u8;
    KvBlock { d: scale(d), m: scale(low), codes: x.iter().map(code).collect() }
}

/// Codes of the nearest levels, the upper of two, with the farthest element at -127; then the scale of least squared
/// error, weighted by squares. Its sums are of eight elements in order, then of these as a tree.
fn iq4_nl(x: &[f32]) -> KvBlock {
    let inverse = inverse(farthest(x) / -127.0);
    let nearest = |x: &f32| {
        let above = |pair: &&[i8]| x * inverse >= (f32::from(pair[0]) + f32::from(pair[1])) / 2.0;
        NON_LINEAR.windows(2).filter(above).count() as u8
    };
    let codes: Vec<u8> = x.iter().map(nearest).collect();
    let sum = |from: usize| {
        x.iter().zip(&codes).skip(from).take(8).fold((0.0, 0.0), |(products, squares), (x, code)| {
            let level = f32::from(NON_LINEAR[usize::from(*code)]);
            let weighted = x * x * level;
            (products + weighted * x, squares + weighted * level)
        })
    };
    let add = |a: (f32, f32), b: (f32, f32)| (a.0 + b.0, a.1 + b.1);
    let (products, squares) = add(add(sum(0), sum(8)), add(sum(16), sum(24)));
    let d = if squares > 0.0 && inverse != 0.0 { products / squares } else { 0.0 };
    KvBlock { d: scale(d), m: f16::ZERO, codes }
}

impl KvFormat {
    /// Words of one position's codes, fifth bits and scales.
    pub fn parts(&self, size: usize) -> [usize; 3] {
        let blocks = size / 32;
        [size * self.bits / 32, if self.fifth { blocks } else { 0 }, (blocks * self.halves).div_ceil(2)]
    }

    /// Words that one position of a head takes.
    pub fn row_words(&self, size: usize) -> usize {
        self.parts(size).iter().sum()
    }

    /// Words from a tile's start to the codes, fifth bits and scales of a position.
    fn places(&self, size: usize, slot: usize) -> [usize; 3] {
        let [codes, fifths, scales] = self.parts(size);
        let (second, third) = (KV_BLOCK * codes, KV_BLOCK * (codes + fifths));
        [slot * codes, second + slot * fifths, third + slot * scales]
    }

    /// Writes a head to position `slot` of the tile that starts at word `tile`.
    pub fn store(&self, pool: Words<'_>, tile: usize, slot: usize, values: &[f32]) {
        let [codes_at, fifths_at, scales_at] = self.places(values.len(), slot).map(|at| tile + at);
        match &self.code {
            KvCode::Float { encode, .. } => {
                for (i, value) in values.iter().enumerate() {
                    if self.bits == 32 {
                        pool.set_u32(codes_at + i, encode(*value));
                    } else {
                        pool.set_u16(2 * codes_at + i, encode(*value) as u16);
                    }
                }
            }
            KvCode::Block { quantise, .. } => {
                for at in scales_at..scales_at + self.parts(values.len())[2] {
                    pool.set_u32(at, 0);
                }
                let clamp = |x: &f32| x.clamp(-LARGEST_IN_BLOCK, LARGEST_IN_BLOCK);
                let values: Vec<f32> = values.iter().map(clamp).collect();
                for (block, values) in values.chunks_exact(32).enumerate() {
                    let quantised = quantise(values);
                    for (unit, codes) in quantised.codes.chunks_exact(8).enumerate() {
                        let first = block * 32 + unit * 8;
                        for i in 0..4 {
                            if self.bits == 8 {
                                pool.set_u8(4 * codes_at + first + i, codes[i]);
                                pool.set_u8(4 * codes_at + first + i + 4, codes[i + 4]);
                            } else {
                                let byte = codes[i] & 15 | (codes[i + 4] & 15) << 4;
                                pool.set_u8(4 * codes_at + first / 2 + i, byte);
                            }
                        }
                    }
                    if self.fifth {
                        let bit = |(e, code): (usize, &u8)| u32::from(code >> 4) << e;
                        pool.set_u32(fifths_at + block, quantised.codes.iter().enumerate().map(bit).sum());
                    }
                    let half = 2 * scales_at + block * self.halves;
                    pool.set_u16(half, quantised.d.to_bits());
                    if self.halves == 2 {
                        pool.set_u16(half + 1, quantised.m.to_bits());
                    }
                }
            }
        }
    }

    /// Element `element` of the head at position `slot` of the tile that starts at word `tile`.
    pub fn load(&self, pool: Words<'_>, tile: usize, slot: usize, size: usize, element: usize) -> f32 {
        let [codes_at, fifths_at, scales_at] = self.places(size, slot).map(|at| tile + at);
        match &self.code {
            KvCode::Float { decode, .. } if self.bits == 32 => decode(pool.u32(codes_at + element)),
            KvCode::Float { decode, .. } => decode(u32::from(pool.u16(2 * codes_at + element))),
            KvCode::Block { level, .. } => {
                let block = element / 32;
                let code = if self.bits == 8 {
                    pool.u8(4 * codes_at + element)
                } else {
                    let byte = pool.u8(4 * codes_at + element / 8 * 4 + element % 4);
                    let low = if element % 8 < 4 { byte & 15 } else { byte >> 4 };
                    let fifths = if self.fifth { pool.u32(fifths_at + block) } else { 0 };
                    low | ((fifths >> (element % 32) & 1) as u8) << 4
                };
                let half = |at: usize| f16::from_bits(pool.u16(2 * scales_at + at)).to_f32();
                let m = if self.halves == 2 { half(2 * block + 1) } else { 0.0 };
                half(block * self.halves) * level(code) + m
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::by_name;

    /// A block as GGUF files hold it: element e of the first half shares a byte with element e + 16.
    fn gguf(format: &KvFormat, block: &KvBlock) -> Vec<u8> {
        let mut bytes = block.d.to_le_bytes().to_vec();
        if format.halves == 2 {
            bytes.extend(block.m.to_le_bytes());
        }
        if format.fifth {
            let fifths: u32 = block.codes.iter().enumerate().map(|(e, c)| u32::from(c >> 4) << e).sum();
            bytes.extend(fifths.to_le_bytes());
        }
        if format.bits == 8 {
            bytes.extend(&block.codes);
        } else {
            bytes.extend((0..16).map(|e| block.codes[e] & 15 | (block.codes[e + 16] & 15) << 4));
        }
        bytes
    }

    fn values(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut unit = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| unit() + unit() + unit()).collect()
    }

    #[test]
    fn blocks_decode_as_those_of_gguf_files() {
        for format in &KV_FORMATS[3..] {
            let KvCode::Block { quantise, .. } = format.code else { panic!("{} has no blocks", format.name) };
            let weights = by_name(format.name).expect("a format of weights too");
            for size in [32, 64, 96, 128] {
                let head = values(size as u32, size);
                let mut words = vec![u32::MAX; 3 + KV_BLOCK * format.row_words(size)];
                format.store(Words::new(&mut words), 3, 77, &head);
                let mut want = vec![0.0; size];
                for (x, out) in head.chunks(32).zip(want.chunks_mut(32)) {
                    let bytes = gguf(format, &quantise(x));
                    assert_eq!(bytes.len(), weights.bytes, "{}", format.name);
                    (weights.decode)(&bytes, out);
                }
                let pool = Words::new(&mut words);
                let got: Vec<f32> = (0..size).map(|e| format.load(pool, 3, 77, size, e)).collect();
                assert_eq!(got, want, "{} heads of {size}", format.name);
            }
        }
    }

    #[test]
    fn quantisers_hit_what_their_levels_hold_and_are_off_by_half_a_step_at_most() {
        for format in &KV_FORMATS[3..] {
            let KvCode::Block { quantise, level } = format.code else {
                panic!("{} has no blocks", format.name)
            };
            let back =
                |block: &KvBlock, e: usize| block.d.to_f32() * level(block.codes[e]) + block.m.to_f32();
            let codes = if format.bits == 8 {
                255
            } else if format.fifth {
                32
            } else {
                16
            };
            // Whole multiples of 1/4 that use all levels, the extremes among them.
            let exact: Vec<f32> = (0..32)
                .map(|e| {
                    let code = if e == 0 { 0 } else { (e * 37 + codes - 38) % codes };
                    0.25 * if format.bits == 8 { code as f32 - 127.0 } else { level(code as u8) }
                })
                .collect();
            let block = quantise(&exact);
            if format.name == "iq4_nl" {
                assert_eq!(block.d.to_f32(), 0.25);
            }
            for (e, x) in exact.iter().enumerate() {
                if format.name != "q8_0" || exact.iter().any(|x| x.abs() == 127.0 * 0.25) {
                    assert_eq!(back(&block, e), *x, "{} element {e}", format.name);
                }
            }
            for seed in 0..200 {
                let x = values(seed, 32);
                let block = quantise(&x);
                let far = x.iter().fold(0.0f32, |far, x| far.max(x.abs()));
                let span =
                    x.iter().fold(f32::MIN, |a, b| a.max(*b)) - x.iter().fold(f32::MAX, |a, b| a.min(*b));
                // Half a step of the scale, one more at the end that has a level less; and the scale's own rounding.
                let bound = match format.name {
                    "q8_0" => far / 127.0 * 0.5,
                    "q5_1" => span / 31.0 * 0.5,
                    "q4_1" => span / 15.0 * 0.5,
                    "q5_0" => far / 16.0,
                    "q4_0" => far / 8.0,
                    _ => far * 24.0 / 113.0,
                } + far * 2f32.powi(-10);
                for (e, x) in x.iter().enumerate() {
                    let error = (back(&block, e) - x).abs();
                    assert!(error <= bound, "{} seed {seed} element {e}: {error} > {bound}", format.name);
                }
            }
        }
    }

    #[test]
    fn nothing_becomes_infinite_and_zeros_stay() {
        for format in &KV_FORMATS {
            for x in
                [[0.0f32; 32], [-0.0; 32], [f32::MAX; 32], [f32::MIN; 32], [1e-38; 32], [f32::INFINITY; 32]]
            {
                if format.bits == 32 && x[0].is_infinite() {
                    continue;
                }
                let mut words = vec![0; KV_BLOCK * format.row_words(32)];
                let pool = Words::new(&mut words);
                format.store(pool, 0, 1, &x);
                for e in 0..32 {
                    let value = format.load(pool, 0, 1, 32, e);
                    assert!(value.is_finite(), "{}: {} became {value}", format.name, x[e]);
                    assert!(x[0] != 0.0 || value == 0.0, "{}: zero became {value}", format.name);
                }
            }
        }
    }
}
