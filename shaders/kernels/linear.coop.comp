// Linear for prompts on devices that multiply matrices in a subgroup: weights and rows as f16 in shared memory, sums in
// f32. A workgroup computes a tile of TILE_OUTS outputs by ROWS rows; its subgroups divide the tile's matrices among them. Every
// sum takes matrices in the order of k, whatever the tile is. Conversions to f16 round to nearest, ties to even.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require

layout(constant_id = 11) const uint TILE_OUTS = 128u;
// The device's matrices: outputs, rows and elements of k.
layout(constant_id = 8) const uint MATRIX_OUTS = 16u;
layout(constant_id = 9) const uint MATRIX_ROWS = 16u;
layout(constant_id = 10) const uint MATRIX_K = 16u;

#include "linear.glsl"

// Elements of k per step, as words of two, and a padding that keeps banks apart.
const uint STEP = 64u;
const uint PITCH = STEP / 2u + 4u;
const uint ACROSS = WG / SG > 1u ? 2u : 1u;
const uint DOWN = WG / SG / ACROSS;
const uint OWN_OUTS = TILE_OUTS / MATRIX_OUTS / DOWN;
const uint OWN_ROWS = ROWS / MATRIX_ROWS / ACROSS;
const uint MATRIX = MATRIX_OUTS * MATRIX_ROWS;
const uint X_AT = TILE_OUTS * PITCH;

// Weights [TILE_OUTS] and rows [ROWS] of a step; behind the last step, a matrix of sums for each subgroup.
shared uint tile[(TILE_OUTS + ROWS) * PITCH];

// Decodes what the step that begins with element `first` needs of the tile's outputs.
void load_weights(uint output0, uint first) {
    const uint per_step = max(STEP / FORMAT_UNIT, 1u);
    for (uint task = gl_LocalInvocationIndex; task < TILE_OUTS * per_step; task += WG) {
        uint slot = task / per_step;
        uint unit = first / FORMAT_UNIT + task % per_step;
        float w[FORMAT_UNIT];
        if (unit < linear_units()) {
            format_unit_decode(linear_base(output0 + slot), unit, FORMAT_UNIT, w);
        } else {
            [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e++) {
                w[e] = 0.0;
            }
        }
        [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e += 2u) {
            uint word = (unit * FORMAT_UNIT + e - first) / 2u;
            if (word < STEP / 2u) {
                tile[slot * PITCH + word] = packFloat2x16(f16vec2(w[e], w[e + 1u]));
            }
        }
    }
}

void load_x(uint row0, uint first) {
    for (uint task = gl_LocalInvocationIndex; task < ROWS * STEP / 8u; task += WG) {
        uint row = task / (STEP / 8u);
        uint word = task % (STEP / 8u) * 4u;
        uvec4 v = uvec4(0u);
        if (first + 2u * word < push.k) {
            v = x4[(linear_row(row0 + row) + first / 2u + word) / 4u];
        }
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            tile[X_AT + row * PITCH + word + i] = v[i];
        }
    }
}

void main() {
    uint output0 = gl_WorkGroupID.x * TILE_OUTS;
    uint row0 = linear_begin();
    if (linear_idle()) {
        return;
    }
    uint out0 = gl_SubgroupID / ACROSS * OWN_OUTS * MATRIX_OUTS;
    uint line0 = gl_SubgroupID % ACROSS * OWN_ROWS * MATRIX_ROWS;
    coopmat<float, gl_ScopeSubgroup, MATRIX_OUTS, MATRIX_ROWS, gl_MatrixUseAccumulator> sum[OWN_OUTS * OWN_ROWS];
    [[unroll]] for (uint i = 0u; i < OWN_OUTS * OWN_ROWS; i++) {
        sum[i] = coopmat<float, gl_ScopeSubgroup, MATRIX_OUTS, MATRIX_ROWS, gl_MatrixUseAccumulator>(0.0);
    }
    for (uint first = 0u; first < push.k; first += STEP) {
        barrier();
        load_weights(output0, first);
        load_x(row0, first);
        barrier();
        [[dont_unroll]] for (uint k = 0u; k < STEP; k += MATRIX_K) {
            coopmat<float16_t, gl_ScopeSubgroup, MATRIX_OUTS, MATRIX_K, gl_MatrixUseA> w[OWN_OUTS];
            [[unroll]] for (uint o = 0u; o < OWN_OUTS; o++) {
                uint at = (out0 + o * MATRIX_OUTS) * PITCH + k / 2u;
                coopMatLoad(w[o], tile, at, PITCH, gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint r = 0u; r < OWN_ROWS; r++) {
                coopmat<float16_t, gl_ScopeSubgroup, MATRIX_K, MATRIX_ROWS, gl_MatrixUseB> v;
                uint at = X_AT + (line0 + r * MATRIX_ROWS) * PITCH + k / 2u;
                coopMatLoad(v, tile, at, PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint o = 0u; o < OWN_OUTS; o++) {
                    sum[o * OWN_ROWS + r] = coopMatMulAdd(w[o], v, sum[o * OWN_ROWS + r]);
                }
            }
        }
    }
    barrier();
    uint own = gl_SubgroupID * MATRIX;
    [[unroll]] for (uint i = 0u; i < OWN_OUTS * OWN_ROWS; i++) {
        subgroupBarrier();
        coopMatStore(sum[i], tile, own, MATRIX_OUTS, gl_CooperativeMatrixLayoutColumnMajor);
        subgroupBarrier();
        uint output1 = output0 + out0 + i / OWN_ROWS * MATRIX_OUTS;
        uint row1 = row0 + line0 + i % OWN_ROWS * MATRIX_ROWS;
        for (uint e = gl_SubgroupInvocationID; e < MATRIX; e += SG) {
            uint row = row1 + e / MATRIX_OUTS;
            float scale = uintBitsToFloat(x[linear_row(row) + push.k / 2u]);
            linear_store(row, output1 + e % MATRIX_OUTS, uintBitsToFloat(tile[own + e]) * scale);
        }
    }
}
