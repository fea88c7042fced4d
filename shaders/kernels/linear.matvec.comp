// Linear for few rows on GPUs: LANES neighbouring lanes share an output and take its units in turn, each decodes a
// unit once for all ROWS rows; their sums meet in a fixed tree. Weights stream through in order, x comes from caches.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#ifdef ACT_Q8
#extension GL_EXT_integer_dot_product : require
#endif

// Lanes that share an output, a power of two up to SG.
layout(constant_id = 5) const uint LANES = 16u;

#include "linear.glsl"
#include "reduce.glsl"
#include "activations.glsl"

void main() {
    uint local = gl_SubgroupID * SG + gl_SubgroupInvocationID;
    uint index = gl_WorkGroupID.x * (WG / LANES) + local / LANES;
    uint lane = local % LANES;
    uint row0 = linear_begin();
    if (linear_idle()) {
        return;
    }
    uint base = linear_base(index);
    uint units = linear_units();
    float sum[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        sum[r] = 0.0;
    }
    [[dont_unroll]] for (uint unit = lane; unit < units; unit += LANES) {
        activations_unit(base, unit, row0, sum);
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        float total = reduce_lanes(sum[r], LANES);
        if (lane == 0u) {
            linear_store(row0 + r, index, total);
        }
    }
}
