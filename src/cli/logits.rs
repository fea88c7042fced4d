//! `vkllm logits`: the logits of given tokens as a NumPy file.

use std::io::{self, Write};

use super::args::LogitsArgs;
use super::{Failure, input, load};
use crate::{SamplerOptions, Session};

/// Context when none is asked for: models with LongRoPE choose their factors by it.
const CONTEXT: u32 = 512;

pub(super) fn run(args: &LogitsArgs) -> Result<(), Failure> {
    let file = load::file(Some(&args.model))?.without_predictor();
    let device = load::device(&args.common.device)?;
    let mut options = load::options(&args.common, &file, &device)?;
    options.logits = true;
    let count = u32::try_from(args.tokens.len()).unwrap_or(u32::MAX);
    options.context = options.context.or(Some(count.max(CONTEXT)));
    let model = load::model(&device, &file, &options)?;
    let mut session = Session::new(&model, SamplerOptions::greedy())?;
    let logits = session.forward(&args.tokens)?;
    let bytes = npy(&logits, args.tokens.len(), model.config().vocab as usize);
    match &args.output {
        Some(path) => std::fs::write(path, bytes).map_err(|e| input(format!("{}: {e}", path.display())))?,
        None => io::stdout().write_all(&bytes)?,
    }
    load::no_messages(&device)
}

/// NumPy format 1.0: little-endian f32, C order.
fn npy(values: &[f32], rows: usize, columns: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version and length take 10 bytes; the data begin at a multiple of 64.
    let padded = (header.len() + 11).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - header.len() - 1));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_aligned() {
        for columns in [1, 512, 151_936] {
            let bytes = npy(&[1.5], 1, columns);
            assert_eq!((bytes.len() - 4) % 64, 0);
            assert_eq!(bytes[bytes.len() - 5], b'\n');
            assert_eq!(bytes[bytes.len() - 4..], 1.5f32.to_le_bytes());
        }
    }
}
