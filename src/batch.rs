//! A step: the rows of one submission, each a token at a position of a session, in the layout the shaders declare.

use vkllm_shaders::records::StepRow;

/// Bit of [`StepRow::flags`]: the row moves on to the sampled token when the step ends.
pub const ADVANCE: u32 = 1;

/// Bit of [`StepRow::flags`]: the hidden row before it is not known to a predictor.
pub const BARE: u32 = vkllm_shaders::reference::hidden_get::ROW_BARE;

/// One row before it is written to the step buffer.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub token: u32,
    pub position: u32,
    /// First entry of its session in the block table.
    pub table: u32,
    /// Record of its sampler.
    pub sampler: u32,
    /// Index of its result.
    pub out_index: u32,
    pub advance: bool,
    /// No hidden row of the position before is kept.
    pub bare: bool,
}

impl Row {
    /// The record that shaders read.
    pub fn record(&self) -> StepRow {
        StepRow {
            token: self.token,
            position: self.position,
            table: self.table,
            begin: 0,
            sampler_index: self.sampler,
            segment: self.sampler,
            out_index: self.out_index,
            flags: if self.advance { ADVANCE } else { 0 } | if self.bare { BARE } else { 0 },
        }
    }
}
