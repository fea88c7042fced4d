//! Which tensor lies where: buffers and offsets, as pure functions of the file's table.

use crate::gguf::TensorInfo;

/// Most bytes of one buffer; tensors larger than this get a buffer of their own.
const BUFFER: u64 = 1 << 30;
/// Tensors that are copied start at multiples of this in their buffer, as vector loads need.
const ALIGN: u64 = 256;
/// Tensors that are read where the file has them must start at multiples of this.
const IN_PLACE: u64 = 16;

/// A tensor's buffer, and its offset there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement<'a> {
    pub(super) info: &'a TensorInfo,
    pub(super) buffer: usize,
    pub(super) offset: u64,
}

/// Packs tensors into buffers of at most `limit` bytes, one behind the other; none straddles two. Returns the buffers' sizes.
pub(super) fn packed<'a>(tensors: &[&'a TensorInfo], limit: u64) -> (Vec<Placement<'a>>, Vec<u64>) {
    let limit = limit.min(BUFFER);
    let mut sizes: Vec<u64> = Vec::new();
    let mut placed = Vec::with_capacity(tensors.len());
    for &info in tensors {
        let start = sizes.last().map_or(0, |size| size.next_multiple_of(ALIGN));
        if sizes.is_empty() || start + info.bytes > limit {
            sizes.push(info.bytes);
            placed.push(Placement { info, buffer: sizes.len() - 1, offset: 0 });
        } else if let Some(size) = sizes.last_mut() {
            *size = start + info.bytes;
            placed.push(Placement { info, buffer: sizes.len() - 1, offset: start });
        }
    }
    (placed, sizes)
}

/// Covers tensors, in file order, with pieces of the file that begin and end at multiples of `align` and have at most
/// `limit` bytes. Returns the pieces as (offset, bytes), or why a tensor cannot be read in place.
pub(super) fn in_place<'a>(
    tensors: &[&'a TensorInfo],
    align: u64,
    limit: u64,
) -> Result<(Vec<Placement<'a>>, Vec<(u64, u64)>), String> {
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let mut placed = Vec::with_capacity(tensors.len());
    for &info in tensors {
        if !info.offset.is_multiple_of(IN_PLACE) {
            return Err(format!(
                "tensor {} starts at byte {}, not a multiple of {IN_PLACE}",
                info.name, info.offset
            ));
        }
        let end = (info.offset + info.bytes).next_multiple_of(align);
        let fits = pieces.last().filter(|(start, _)| end - start <= limit).is_some();
        if !fits {
            let start = info.offset - info.offset % align;
            if end - start > limit {
                let bytes = info.bytes;
                return Err(format!("tensor {} has {bytes} bytes, but an import at most {limit}", info.name));
            }
            pieces.push((start, 0));
        }
        let buffer = pieces.len() - 1;
        let (start, bytes) = &mut pieces[buffer];
        *bytes = end - *start;
        placed.push(Placement { info, buffer, offset: info.offset - *start });
    }
    Ok((placed, pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(offset: u64, bytes: u64) -> TensorInfo {
        TensorInfo { name: "t".into(), ggml_type: 0, dims: vec![bytes / 4], offset, bytes }
    }

    #[test]
    fn no_tensor_straddles_a_buffer() {
        let infos: Vec<_> = [100, 300, 5000, 20, 900].map(|bytes| info(0, bytes)).into();
        let all: Vec<_> = infos.iter().collect();
        let (placed, sizes) = packed(&all, 1024);
        for place in &placed {
            assert_eq!(place.offset % ALIGN, 0);
            assert!(place.offset + place.info.bytes <= sizes[place.buffer]);
        }
        assert_eq!(sizes, [556, 5000, 20, 900]);
    }

    #[test]
    fn pieces_cover_their_tensors() {
        let infos: Vec<_> =
            [(4128, 100), (4256, 9000), (20000, 32), (30016, 5000)].map(|(o, b)| info(o, b)).into();
        let all: Vec<_> = infos.iter().collect();
        let (placed, pieces) = in_place(&all, 4096, 16384).unwrap();
        assert_eq!(pieces, [(4096, 16384), (28672, 8192)]);
        for place in &placed {
            let (start, bytes) = pieces[place.buffer];
            assert_eq!(start + place.offset, place.info.offset);
            assert!(place.offset + place.info.bytes <= bytes);
            assert!(start % 4096 == 0 && bytes % 4096 == 0 && bytes <= 16384);
        }
        assert!(in_place(&all, 4096, 8192).unwrap_err().contains("at most 8192"));
        let odd = info(4100, 100);
        assert!(in_place(&[&odd], 4096, 8192).unwrap_err().contains("byte 4100"));
    }
}
