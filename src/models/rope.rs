//! RoPE angles and query scales for every position, computed on the host in f64.

use super::{Architecture, Config};
use crate::error::Result;
use crate::gguf::{Gguf, escaped};

/// How RoPE is stretched beyond the context of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): interpolation by frequency.
    Yarn {
        factor: f64,
        /// Context of training.
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
    },
}

/// Angle per position of each rotated pair: `rot / 2` values.
fn frequencies(config: &Config, factors: Option<&[f32]>) -> Vec<f64> {
    let rot = f64::from(config.rot);
    (0..config.rot / 2)
        .map(|pair| {
            let plain = config.rope_base.powf(-2.0 * f64::from(pair) / rot);
            let plain = plain / factors.map_or(1.0, |f| f64::from(f[pair as usize]));
            match config.scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear { factor } => plain / factor,
                RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                    // The pair that turns `beta` times within the original context.
                    let pair_of = |beta: f64| {
                        rot * (original / (beta * 2.0 * std::f64::consts::PI)).ln()
                            / (2.0 * config.rope_base.ln())
                    };
                    let low = pair_of(beta_fast).floor().max(0.0);
                    let high = pair_of(beta_slow).ceil().min(rot - 1.0);
                    let ramp = ((f64::from(pair) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    plain * (1.0 - ramp) + plain / factor * ramp
                }
            }
        })
        .collect()
}

/// Bytes of the angles, and of the factors on the queries, of so many positions.
pub fn table_bytes(config: &Config, positions: u32) -> (u64, Option<u64>) {
    let positions = u64::from(positions);
    let tables = 1 + u64::from(config.window_base.is_some());
    (tables * positions * u64::from(config.rot) * 4, config.query_scale.map(|_| positions * 4))
}

/// The frequency factors that a context of so many positions uses, where the file has any.
///
/// Errors: a file that cannot be read.
pub fn rope_factors(gguf: &Gguf, config: &Config, positions: u32) -> Result<Option<Vec<f32>>> {
    let by_length = if positions > config.short_context {
        "rope_factors_long.weight"
    } else {
        "rope_factors_short.weight"
    };
    let Some(info) = gguf.tensor("rope_freqs.weight").or_else(|| gguf.tensor(by_length)) else {
        return Ok(None);
    };
    let mut values = vec![0f32; info.elements() as usize];
    gguf.read_at(info.offset, bytemuck::cast_slice_mut(&mut values))?;
    Ok(Some(values))
}

/// Pairs (cos, sin), `[positions][rot / 2][2]`, and behind them those of layers with a window where they differ.
/// `factors` divide the angles (`rope_freqs.weight`).
pub fn rope_table(config: &Config, factors: Option<&[f32]>, positions: u32) -> Vec<f32> {
    let mut table = angles(&frequencies(config, factors), config.rope_magnitude, positions);
    if let Some(base) = config.window_base {
        let plain = Config { rope_base: base, scaling: RopeScaling::None, ..config.clone() };
        table.extend(angles(&frequencies(&plain, factors), 1.0, positions));
    }
    table
}

fn angles(frequencies: &[f64], magnitude: f64, positions: u32) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions as usize * frequencies.len() * 2);
    for position in 0..positions {
        for &frequency in frequencies {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            table.push((cos * magnitude) as f32);
            table.push((sin * magnitude) as f32);
        }
    }
    table
}

/// Factor on the queries of each position.
pub fn query_scale(config: &Config, positions: u32) -> Option<Vec<f32>> {
    let (scale, original) = config.query_scale?;
    let factor = |position: u32| 1.0 + scale * ((f64::from(position) / original).floor() + 1.0).ln();
    Some((0..positions).map(|position| factor(position) as f32).collect())
}

/// Reads the scaling and the factor on cos and sin.
pub(super) fn read_scaling(
    gguf: &Gguf,
    architecture: &Architecture,
    positive: &dyn Fn(&str, Option<f32>) -> Result<f32>,
) -> Result<(RopeScaling, f64)> {
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.rope.scaling.{suffix}", architecture.name);
    let number = |suffix: &str, default: f32| {
        positive(&format!("rope.scaling.{suffix}"), Some(default)).map(f64::from)
    };
    match meta.str(&key("type"))? {
        // LongRoPE is its tensors of factors and the factor on cos and sin.
        None | Some("none" | "longrope") => Ok((RopeScaling::None, number("attn_factor", 1.0)?)),
        Some("linear") => Ok((RopeScaling::Linear { factor: number("factor", 1.0)? }, 1.0)),
        Some("yarn") => {
            let factor = number("factor", 1.0)?;
            let original = f64::from(meta.require_u32(&key("original_context_length"))?);
            // With a log multiplier the magnitudes of numerator and denominator cancel (DeepSeek's mscale = mscale_all_dim).
            let cancels = meta.f32(&key("yarn_log_multiplier"))?.is_some_and(|m| m != 0.0);
            let magnitude = if cancels { 1.0 } else { 1.0 + 0.1 * factor.ln() };
            let scaling = RopeScaling::Yarn {
                factor,
                original,
                beta_fast: number("yarn_beta_fast", 32.0)?,
                beta_slow: number("yarn_beta_slow", 1.0)?,
            };
            Ok((scaling, magnitude * number("attn_factor", 1.0)?))
        }
        Some(other) => {
            let found = format!("\"{}\"", escaped(other.as_bytes()));
            Err(meta.refuse(&key("type"), found, "none, linear, yarn or longrope").into())
        }
    }
}
