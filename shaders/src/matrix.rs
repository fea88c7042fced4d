//! How a kernel that multiplies matrices in a subgroup divides its tile into those of a device.

use vkllm_runtime::Caps;

use crate::select::Candidate;

/// The sides of the device's matrices as the kernel's specialisation, and the outputs and rows of its tile. `None` for
/// another kernel, and where its subgroups cannot share the tile.
pub fn division(candidate: &Candidate, caps: &Caps) -> Option<([(&'static str, u32); 3], u32, u32)> {
    let (outputs, rows) = (candidate.fixed("TILE_OUTS")?, candidate.fixed("ROWS")?);
    let matrix = caps.matrix?;
    let subgroups = candidate.workgroup() / caps.subgroup;
    let across = subgroups.min(2);
    let fits = across > 0
        && outputs.is_multiple_of(matrix.m * (subgroups / across))
        && rows.is_multiple_of(matrix.n * across);
    let sides = [("MATRIX_OUTS", matrix.m), ("MATRIX_ROWS", matrix.n), ("MATRIX_K", matrix.k)];
    fits.then_some((sides, outputs, rows))
}
