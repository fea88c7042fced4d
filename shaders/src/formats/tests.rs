//! Checks of the decoders: golden blocks from an independent implementation, sizes, names and samples.

use super::{FORMATS, SPREAD, by_ggml_type, by_name};

/// Blocks and their weights: per line `name block-in-hex weights-as-hex-of-little-endian-f32`. Written once
/// from random blocks by the dequantiser of the Python package `gguf` 0.19 (numpy 2), which shares no code
/// with this crate.
const GOLDEN: &str = include_str!("golden.txt");

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn decodes_golden_blocks() {
    let mut seen = Vec::new();
    for line in GOLDEN.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let format = by_name(fields[0]).unwrap();
        let (row, expected) = (unhex(fields[1]), unhex(fields[2]));
        let mut weights = vec![0.0; row.len() / format.bytes * format.block];
        format.decode_row(&row, &mut weights);
        assert_eq!(weights.len() * 4, expected.len(), "{}", format.name);
        for (index, (weight, bytes)) in weights.iter().zip(expected.chunks_exact(4)).enumerate() {
            let expected = f32::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(*weight, expected, "{} weight {index}", format.name);
        }
        seen.push(format.name);
    }
    for format in FORMATS {
        assert!(seen.contains(&format.name), "no golden block of {}", format.name);
    }
}

#[test]
fn finds_every_format_by_name_and_number() {
    for format in FORMATS {
        assert!(std::ptr::eq(by_name(format.name).unwrap(), *format));
        assert!(std::ptr::eq(by_ggml_type(format.ggml_type).unwrap(), *format));
        assert_eq!(format.label.to_lowercase(), format.name);
        assert_eq!(format.row_bytes(format.block * 3), Some(format.bytes * 3));
        assert_eq!(format.row_bytes(format.block * 3 + 1).is_some(), format.block == 1);
    }
    assert!(by_name("q9_9").is_none() && by_ggml_type(u32::MAX).is_none());
}

#[test]
fn samples_are_plausible_weights() {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u32
    };
    for format in FORMATS {
        let count = 16384;
        let mut row = vec![0; format.row_bytes(count).unwrap()];
        format.sample_row(&mut next, &mut row);
        let mut weights = vec![f32::NAN; count];
        format.decode_row(&row, &mut weights);
        let mean = weights.iter().sum::<f32>() / count as f32;
        let spread = (weights.iter().map(|w| w * w).sum::<f32>() / count as f32).sqrt();
        assert!(weights.iter().all(|w| w.abs() < 12.0 * SPREAD), "{}", format.name);
        assert!(mean.abs() < 0.1 * SPREAD, "{}: mean {mean}", format.name);
        assert!((0.8..1.25).contains(&(spread / SPREAD)), "{}: spread {spread}", format.name);
    }
}
