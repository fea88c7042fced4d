// The rows of a verification: the cursor, and after it each drafted token at the position it was drafted for, up to the
// first that the drafter was not sure enough of. One lane per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

#include "step.glsl"
#include "sampler.glsl"

layout(binding = 0) readonly restrict buffer Cursor { StepRow cursor[]; };
layout(binding = 1) readonly restrict buffer Drafts { uint drafts[]; }; // how many, then records from word 4 on
layout(binding = 2) writeonly restrict buffer Rows { StepRow rows[]; };

layout(push_constant) uniform Push {
    uint cursor_at;
    uint drafts_at;
    uint rows_at;
    uint row_count;
    uint vocab;
    uint segment;
    float ln_p_min; // a draft less likely than this is none, nor is what follows it
} push;

// Words of a record of drafts[]; token, ln p.
const uint DRAFT_WORDS = 4u;

void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i >= push.row_count) {
        return;
    }
    StepRow row = cursor[push.cursor_at >> 3u];
    bool idle = i > drafts[push.drafts_at];
    for (uint j = 1u; j <= i && !idle; j++) {
        idle = uintBitsToFloat(drafts[push.drafts_at + j * DRAFT_WORDS + 1u]) < push.ln_p_min;
    }
    if (i > 0u) {
        // A draft that the target does not know becomes one it does: a row of nothing would hold NaN.
        uint token = drafts[push.drafts_at + i * DRAFT_WORDS];
        row.token = idle || token >= push.vocab ? 0u : token;
    }
    row.position += i;
    row.segment = push.segment;
    row.out_index = i;
    row.flags = idle ? ROW_IDLE : 0u;
    rows[(push.rows_at >> 3u) + i] = row;
}
