//! The tensor element types a GGUF file can name: how many elements share a block and how many bytes it has.
//!
//! Ids and sizes are those of the GGUF specification (`ggml_type` in docs/gguf.md of the ggml project) and
//! of ggml's block structures for the ids added since. Which of them can be computed with is decided
//! elsewhere; here they only have to be measured.

/// One element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    pub id: u32,
    /// GGUF's name, for example "Q4_K".
    pub name: &'static str,
    /// Elements per block.
    pub block: u64,
    /// Bytes per block.
    pub bytes: u64,
}

const fn t(id: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    GgmlType { id, name, block, bytes }
}

/// All types in use, ascending by id. The ids 4, 5, 31–33 and 36–38 were withdrawn from the format.
pub const GGML_TYPES: &[GgmlType] = &[
    t(0, "F32", 1, 4),
    t(1, "F16", 1, 2),
    t(2, "Q4_0", 32, 18),
    t(3, "Q4_1", 32, 20),
    t(6, "Q5_0", 32, 22),
    t(7, "Q5_1", 32, 24),
    t(8, "Q8_0", 32, 34),
    t(9, "Q8_1", 32, 36),
    t(10, "Q2_K", 256, 84),
    t(11, "Q3_K", 256, 110),
    t(12, "Q4_K", 256, 144),
    t(13, "Q5_K", 256, 176),
    t(14, "Q6_K", 256, 210),
    t(15, "Q8_K", 256, 292),
    t(16, "IQ2_XXS", 256, 66),
    t(17, "IQ2_XS", 256, 74),
    t(18, "IQ3_XXS", 256, 98),
    t(19, "IQ1_S", 256, 50),
    t(20, "IQ4_NL", 32, 18),
    t(21, "IQ3_S", 256, 110),
    t(22, "IQ2_S", 256, 82),
    t(23, "IQ4_XS", 256, 136),
    t(24, "I8", 1, 1),
    t(25, "I16", 1, 2),
    t(26, "I32", 1, 4),
    t(27, "I64", 1, 8),
    t(28, "F64", 1, 8),
    t(29, "IQ1_M", 256, 56),
    t(30, "BF16", 1, 2),
    t(34, "TQ1_0", 256, 54),
    t(35, "TQ2_0", 256, 66),
    t(39, "MXFP4", 32, 17),
    t(40, "NVFP4", 64, 36),
    t(41, "Q1_0", 128, 18),
    t(42, "Q2_0", 64, 18),
];

/// Ids that once meant a type and were withdrawn, with the name they had.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

/// The type with this id, `None` for withdrawn and unknown ids.
pub fn ggml_type(id: u32) -> Option<&'static GgmlType> {
    GGML_TYPES.binary_search_by_key(&id, |t| t.id).ok().map(|i| &GGML_TYPES[i])
}

/// The type's name, for example "Q4_K"; "unknown" for an id that no tensor of an opened file has.
pub fn type_name(id: u32) -> &'static str {
    ggml_type(id).map_or("unknown", |known| known.name)
}

/// What an id stands for that is not in use, for messages: "the removed type 4 (Q4_2)", "the unknown type 99".
pub(super) fn unused_type(id: u32) -> String {
    match REMOVED.iter().find(|(removed, _)| *removed == id) {
        Some((_, name)) => format!("the removed type {id} ({name})"),
        None => format!("the unknown type {id}"),
    }
}
