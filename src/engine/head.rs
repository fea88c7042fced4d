//! A draft model's output matrix with the rows of few tokens: a draft step reads less, and the target verifies anyway.

use vkllm_runtime::Buffer;

use super::{Model, constant_bytes};
use crate::error::Result;
use crate::models::TrimmedHead;
use crate::tensor::Tensor;

/// The mark of a token that has no row.
const NO_PLACE: u32 = u32::MAX;

/// Rows of an output matrix.
pub(crate) struct Head {
    matrix: Tensor,
    bias: Option<Tensor>,
    /// By token: its row.
    places: Buffer,
}

impl Head {
    pub(super) fn view(&self) -> TrimmedHead<'_> {
        TrimmedHead { matrix: &self.matrix, bias: self.bias.as_ref(), places: self.places.whole() }
    }
}

impl Model {
    /// The output matrix with the rows of `ids`, ascending and each below the vocabulary's size.
    ///
    /// Errors: the file became shorter, no room on the device.
    pub(crate) fn head(&self, ids: &[u32]) -> Result<Head> {
        let file = self.inner.file.read()?;
        let engine = self.engine();
        let device = engine.device();
        let rows = |of: &Tensor, row_bytes: u64, name: &str| -> Result<Tensor> {
            let all = file.tensor_bytes(file.require_tensor(&of.name)?);
            let row = |id: &u32| {
                let begin = (u64::from(*id) * row_bytes) as usize;
                all.get(begin..begin + row_bytes as usize).unwrap_or_default()
            };
            let mut bytes: Vec<u8> = ids.iter().flat_map(row).copied().collect();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let view = constant_bytes(device, name, &bytes)?.view(0, ids.len() as u64 * row_bytes);
            Ok(Tensor { view, ..of.clone() })
        };
        let (output, bias) = engine.output();
        let matrix = Tensor { n: ids.len() as u32, ..rows(output, output.row_bytes(), "draft head")? };
        // A bias is one row, whose elements are the tokens'.
        let bias = bias.map(|bias| {
            let element = bias.format.bytes as u64 / bias.format.block as u64;
            Ok::<_, crate::Error>(Tensor { k: ids.len() as u32, ..rows(bias, element, "draft head's bias")? })
        });
        let mut places = vec![NO_PLACE; self.config().vocab as usize];
        for (place, &id) in (0..).zip(ids) {
            places[id as usize] = place;
        }
        let places = constant_bytes(device, "draft head's places", bytemuck::cast_slice(&places))?;
        Ok(Head { matrix, bias: bias.transpose()?, places })
    }
}
