//! RoPE angles and query scales for every position, computed on the host in f64.

use super::{Config, RopeScaling};

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
    (positions * u64::from(config.rot) * 4, config.query_scale.map(|_| positions * 4))
}

/// Pairs (cos, sin), `[positions][rot / 2][2]`. `factors` divide the angles (`rope_freqs.weight`).
pub fn rope_table(config: &Config, factors: Option<&[f32]>, positions: u32) -> Vec<f32> {
    let magnitude = match config.scaling {
        RopeScaling::Yarn { magnitude, .. } => magnitude,
        _ => 1.0,
    };
    let frequencies = frequencies(config, factors);
    let mut table = Vec::with_capacity(positions as usize * config.rot as usize);
    for position in 0..positions {
        for &frequency in &frequencies {
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
