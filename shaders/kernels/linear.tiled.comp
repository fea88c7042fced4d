// Linear for prompts on GPUs: a workgroup computes a tile of WG / LANES * OUTS outputs by ROWS rows from shared
// memory; LANES lanes divide the rows of an output. Every sum is one lane's, in the order of k, whatever the tile is.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef ACT_Q8
#extension GL_EXT_integer_dot_product : require
#endif

layout(constant_id = 5) const uint LANES = 16u;
// Outputs that a lane computes.
layout(constant_id = 6) const uint OUTS = 4u;

#include "linear.glsl"

const uint SIDE = WG / LANES;
const uint TILE = SIDE * OUTS;
const uint MICRO = ROWS / LANES;

#ifdef ACT_Q8
// Two groups of 32 elements per step; strides of five and three vectors per output keep banks apart.
const uint STEP_GROUPS = 2u;
shared ivec4 tile_q[TILE * 5u];
shared vec4 tile_scale[TILE * 3u];
shared uvec4 tile_x[ROWS * 6u];

// Decodes what the step that begins with group `first` needs of the tile's outputs.
void load_weights(uint output0, uint first) {
    const uint per_step = max(STEP_GROUPS / FORMAT_GROUPS, 1u);
    uint groups = push.k / 32u;
    for (uint task = gl_LocalInvocationIndex; task < TILE * per_step; task += WG) {
        uint slot = task / per_step;
        uint unit = first / FORMAT_GROUPS + task % per_step;
        Group g[FORMAT_GROUPS];
        format_unit(linear_base(output0 + slot), min(unit, groups / FORMAT_GROUPS - 1u), g);
        [[unroll]] for (uint i = 0u; i < FORMAT_GROUPS; i++) {
            uint group = unit * FORMAT_GROUPS + i - first;
            if (group < STEP_GROUPS) {
                tile_q[slot * 5u + group * 2u] = ivec4(g[i].q[0], g[i].q[1], g[i].q[2], g[i].q[3]);
                tile_q[slot * 5u + group * 2u + 1u] = ivec4(g[i].q[4], g[i].q[5], g[i].q[6], g[i].q[7]);
                tile_scale[slot * 3u + group] = vec4(g[i].d, g[i].m);
            }
        }
    }
}

void load_x(uint row0, uint first) {
    uint last = push.k / 32u * 3u - 1u;
    for (uint task = gl_LocalInvocationIndex; task < ROWS * 6u; task += WG) {
        uint at = first * 3u + task % 6u;
        tile_x[task] = x4[linear_row(row0 + task / 6u) / 4u + min(at, last)];
    }
}

void multiply(uint column, uint line, uint first, inout float sum[OUTS][MICRO]) {
    uint groups = min(push.k / 32u - first, STEP_GROUPS);
    [[dont_unroll]] for (uint i = 0u; i < groups; i++) {
        ivec4 q[OUTS][2];
        [[unroll]] for (uint o = 0u; o < OUTS; o++) {
            uint at = (column + o * SIDE) * 5u + i * 2u;
            q[o][0] = tile_q[at];
            q[o][1] = tile_q[at + 1u];
        }
        [[unroll]] for (uint m = 0u; m < MICRO; m++) {
            uint at = (line + m * LANES) * 6u + i * 3u;
            ivec4 a = ivec4(tile_x[at]);
            ivec4 b = ivec4(tile_x[at + 1u]);
            vec3 d = uintBitsToFloat(tile_x[at + 2u].xyz);
            [[unroll]] for (uint o = 0u; o < OUTS; o++) {
                vec4 scale = tile_scale[(column + o * SIDE) * 3u + i];
                int low = dotPacked4x8EXT(q[o][0].x, a.x) + dotPacked4x8EXT(q[o][0].y, a.y)
                    + dotPacked4x8EXT(q[o][0].z, a.z) + dotPacked4x8EXT(q[o][0].w, a.w);
                int high = dotPacked4x8EXT(q[o][1].x, b.x) + dotPacked4x8EXT(q[o][1].y, b.y)
                    + dotPacked4x8EXT(q[o][1].z, b.z) + dotPacked4x8EXT(q[o][1].w, b.w);
#ifdef FORMAT_HALVES
                precise float both = scale.x * float(low);
                both = fma(scale.y, float(high), both);
                sum[o][m] = fma(both, d.x, sum[o][m]);
#else
                precise float both = scale.x * d.x;
                sum[o][m] = fma(both, float(low + high), sum[o][m]);
#endif
#if defined(FORMAT_MIN) && defined(FORMAT_HALVES)
                sum[o][m] = fma(scale.z, d.y, sum[o][m]);
                sum[o][m] = fma(scale.w, d.z, sum[o][m]);
#elif defined(FORMAT_MIN)
                precise float all = d.y + d.z;
                sum[o][m] = fma(scale.z, all, sum[o][m]);
#endif
            }
        }
    }
}

const uint STEP = STEP_GROUPS * 32u;
#else
// 32 elements per step; the vectors of an output are permuted instead of padded to keep banks apart.
const uint STEP = 32u;
shared vec4 tile_w[TILE * 8u];
shared vec4 tile_x[ROWS * 8u];

void put_weights(uint slot, uint vector, vec4 w) {
    tile_w[slot * 8u + (vector ^ (slot & 7u))] = w;
}

void load_weights(uint output0, uint first) {
    const uint per_step = max(STEP / FORMAT_UNIT, 1u);
    for (uint task = gl_LocalInvocationIndex; task < TILE * per_step; task += WG) {
        uint slot = task / per_step;
        uint unit = first / FORMAT_UNIT + task % per_step;
        float w[FORMAT_UNIT];
        [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e++) {
            w[e] = 0.0;
        }
        if (unit < linear_units()) {
            uint valid = min(push.k - unit * FORMAT_UNIT, FORMAT_UNIT);
            format_unit_decode(linear_base(output0 + slot), unit, valid, w);
        }
        [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e += 4u) {
            uint vector = (unit * FORMAT_UNIT + e - first) / 4u;
            if (vector < STEP / 4u) {
                put_weights(slot, vector, vec4(w[e], w[e + 1u], w[e + 2u], w[e + 3u]));
            }
        }
    }
}

void load_x(uint row0, uint first) {
    for (uint task = gl_LocalInvocationIndex; task < ROWS * 8u; task += WG) {
        uint element = first + task % 8u * 4u;
        uint at = linear_row(row0 + task / 8u) + element;
#ifdef FORMAT_FLOAT
        vec4 v = vec4(0.0);
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            if (element + i < push.k) v[i] = uintBitsToFloat(x[at + i]);
        }
        tile_x[task] = v;
#else
        tile_x[task] = uintBitsToFloat(x4[at / 4u]);
#endif
    }
}

void multiply(uint column, uint line, uint first, inout float sum[OUTS][MICRO]) {
    [[dont_unroll]] for (uint vector = 0u; vector < STEP / 4u; vector++) {
        vec4 w[OUTS];
        [[unroll]] for (uint o = 0u; o < OUTS; o++) {
            uint slot = column + o * SIDE;
            w[o] = tile_w[slot * 8u + (vector ^ (slot & 7u))];
        }
        [[unroll]] for (uint m = 0u; m < MICRO; m++) {
            vec4 v = tile_x[(line + m * LANES) * 8u + vector];
            [[unroll]] for (uint o = 0u; o < OUTS; o++) {
                [[unroll]] for (uint i = 0u; i < 4u; i++) {
                    sum[o][m] = fma(w[o][i], v[i], sum[o][m]);
                }
            }
        }
    }
}
#endif

void main() {
    uint output0 = gl_WorkGroupID.x * TILE;
    uint row0 = linear_begin();
    if (linear_idle()) {
        return;
    }
    uint column = gl_LocalInvocationIndex % SIDE;
    uint line = gl_LocalInvocationIndex / SIDE;
    float sum[OUTS][MICRO];
    [[unroll]] for (uint o = 0u; o < OUTS; o++) {
        [[unroll]] for (uint m = 0u; m < MICRO; m++) {
            sum[o][m] = 0.0;
        }
    }
    for (uint first = 0u; first < push.k; first += STEP) {
        barrier();
#ifdef ACT_Q8
        load_weights(output0, first / 32u);
        load_x(row0, first / 32u);
        barrier();
        multiply(column, line, first / 32u, sum);
#else
        load_weights(output0, first);
        load_x(row0, first);
        barrier();
        multiply(column, line, first, sum);
#endif
    }
    [[unroll]] for (uint o = 0u; o < OUTS; o++) {
        [[unroll]] for (uint m = 0u; m < MICRO; m++) {
            linear_store(row0 + line + m * LANES, output0 + column + o * SIDE, sum[o][m]);
        }
    }
}
