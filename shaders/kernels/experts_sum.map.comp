// What a row's experts give, summed in its own order, with the shared expert and the residual stream:
// y = residual + scale · (Σ weight · part + share · shared). The grid is (any, rows, 1).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64;
// 0 no shared expert, 1 one, 2 one whose share is the logistic function of a number per row.
layout(constant_id = 1) const uint SHARED = 0u;

layout(binding = 0) readonly restrict buffer Part { float part[]; };
layout(binding = 1) readonly restrict buffer Weights { float weights[]; };
layout(binding = 2) readonly restrict buffer Common { float common_part[]; };
layout(binding = 3) readonly restrict buffer Share { float share[]; };
// May be y itself.
layout(binding = 4) readonly buffer Residual { float residual[]; };
layout(binding = 5) writeonly buffer Y { float y[]; };

layout(push_constant) uniform Push {
    uint part_at;
    uint weights_at;
    uint common_part_at;
    uint share_at;
    uint residual_at;
    uint y_at;
    uint k;
    uint used;
    float scale;
} push;

void main() {
    uint row = gl_WorkGroupID.y;
    [[dont_unroll]] for (uint i = gl_GlobalInvocationID.x; i < push.k; i += gl_NumWorkGroups.x * WG) {
        precise float sum = 0.0;
        [[dont_unroll]] for (uint slot = 0u; slot < push.used; slot++) {
            uint assignment = row * push.used + slot;
            sum = fma(weights[push.weights_at + assignment], part[push.part_at + assignment * push.k + i], sum);
        }
        if (SHARED != 0u) {
            float weight = 1.0;
            if (SHARED == 2u) {
                float gate = share[push.share_at + row];
                precise float power = exp(-abs(gate));
                weight = (gate < 0.0 ? power : 1.0) / (1.0 + power);
            }
            sum = fma(weight, common_part[push.common_part_at + row * push.k + i], sum);
        }
        uint at = row * push.k + i;
        y[push.y_at + at] = fma(push.scale, sum, residual[push.residual_at + at]);
    }
}
