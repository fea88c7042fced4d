// Decides whether a part of a round runs: the workgroup counts of its dispatches, or none of them once a draft before it
// was less likely than allowed. One lane per word.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

layout(binding = 0) readonly restrict buffer Drafts { uint drafts[]; }; // how many, then records from word 4 on
layout(binding = 1) readonly restrict buffer Counts { uint counts[]; };
layout(binding = 2) writeonly restrict buffer Args { uint args[]; };

layout(push_constant) uniform Push {
    uint drafts_at;
    uint counts_at;
    uint args_at;
    uint words;
    uint drafted;   // drafts before this part
    float ln_p_min; // a draft less likely than this is none, nor is what follows it
} push;

// Words of a record of drafts[]; token, ln p.
const uint DRAFT_WORDS = 4u;

void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i >= push.words) {
        return;
    }
    bool runs = true;
    // Records after the first unsure one are of earlier rounds.
    for (uint j = 1u; j <= push.drafted && runs; j++) {
        runs = !(uintBitsToFloat(drafts[push.drafts_at + j * DRAFT_WORDS + 1u]) < push.ln_p_min);
    }
    args[push.args_at + i] = runs ? counts[push.counts_at + i] : 0u;
}
