// Heads of a row on their way from projection to attention: norm, RoPE and scale of q in place; norm and RoPE
// of k and plain v into the KV pools. One subgroup per head: q heads first, then k heads, then v heads. HEAD
// and HEAD_V are multiples of 4; ROT is even, with halves pairing a multiple of 4.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint HEAD = 128u;
layout(constant_id = 3) const uint HEAD_V = 128u;
layout(constant_id = 4) const uint ROT = 128u;
layout(constant_id = 5) const uint PAIRING = 2u; // 0 no RoPE, 1 (2i, 2i+1), 2 (i, i + ROT/2)
layout(constant_id = 6) const uint NORM = 0u;
layout(constant_id = 7) const uint QSCALE = 0u;
layout(constant_id = 8) const uint K_TYPE = 0u;
layout(constant_id = 9) const uint V_TYPE = 0u;

#include "step.glsl"
#include "kv.glsl"

layout(binding = 0) restrict buffer Q { float q[]; };
layout(binding = 1) readonly restrict buffer K { float k[]; };
layout(binding = 2) readonly restrict buffer V { float v[]; };
layout(binding = 3) readonly restrict buffer QNorm { float q_norm[]; };
layout(binding = 4) readonly restrict buffer KNorm { float k_norm[]; };
layout(binding = 5) readonly restrict buffer Rope { float rope[]; };
layout(binding = 6) readonly restrict buffer QScale { float q_scale[]; };
layout(binding = 7) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 8) readonly restrict buffer BlockTable { uint block_table[]; };
layout(binding = 9) writeonly restrict buffer KCache { uint k_cache[]; };
layout(binding = 10) writeonly restrict buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push {
    uint q_at;
    uint k_at;
    uint v_at;
    uint q_norm_at;
    uint k_norm_at;
    uint rope_at;
    uint q_scale_at;
    uint rows_at;
    uint block_table_at;
    uint k_cache_at;
    uint v_cache_at;
    uint n_head;
    uint n_kv;
    uint q_stride;
    uint k_stride;
    uint v_stride;
    uint row_count;
    float eps;
} push;

#include "subgroup.glsl"

// A lane owns quads: two pairs of neighbours, so that it packs whole f16 words, and both sides of every
// rotation, so that q can be changed in place without a barrier. These are the first elements of the two
// pairs.
uvec2 quad_elements(uint quad) {
    if (PAIRING == 2u && quad < ROT / 4u) {
        return uvec2(2u * quad, 2u * quad + ROT / 2u);
    }
    return uvec2(4u * quad, 4u * quad + 2u);
}

vec4 load(bool query, uint at, uvec2 e) {
    if (query) {
        return vec4(q[at + e.x], q[at + e.x + 1u], q[at + e.y], q[at + e.y + 1u]);
    }
    return vec4(k[at + e.x], k[at + e.x + 1u], k[at + e.y], k[at + e.y + 1u]);
}

vec4 norm_weight(bool query, uvec2 e) {
    if (query) {
        e += push.q_norm_at;
        return vec4(q_norm[e.x], q_norm[e.x + 1u], q_norm[e.y], q_norm[e.y + 1u]);
    }
    e += push.k_norm_at;
    return vec4(k_norm[e.x], k_norm[e.x + 1u], k_norm[e.y], k_norm[e.y + 1u]);
}

// Cosine and sine of rotation i of a position.
vec2 turn(uint position, uint i) {
    uint at = push.rope_at + (position * (ROT / 2u) + i) * 2u;
    return vec2(rope[at], rope[at + 1u]);
}

// (a, b) turned by (cosine, sine).
vec2 rotate(float a, float b, vec2 t) {
    precise float low = fma(a, t.x, -(b * t.y));
    precise float high = fma(a, t.y, b * t.x);
    return vec2(low, high);
}

vec4 rope_quad(vec4 value, uint quad, uvec2 e, uint position) {
    if (PAIRING == 2u && quad < ROT / 4u) {
        vec2 even = rotate(value.x, value.z, turn(position, e.x));
        vec2 odd = rotate(value.y, value.w, turn(position, e.x + 1u));
        return vec4(even.x, odd.x, even.y, odd.y);
    }
    if (PAIRING == 1u && e.x < ROT) {
        value.xy = rotate(value.x, value.y, turn(position, e.x / 2u));
    }
    if (PAIRING == 1u && e.y < ROT) {
        value.zw = rotate(value.z, value.w, turn(position, e.y / 2u));
    }
    return value;
}

void key_store(uint cell, uvec2 e, vec4 value) {
    if (K_TYPE == KV_F16) {
        uvec2 word = push.k_cache_at + (cell + e) / 2u;
        k_cache[word.x] = kv_pack(value.xy);
        k_cache[word.y] = kv_pack(value.zw);
    } else {
        uvec2 word = push.k_cache_at + cell + e;
        k_cache[word.x] = floatBitsToUint(value.x);
        k_cache[word.x + 1u] = floatBitsToUint(value.y);
        k_cache[word.y] = floatBitsToUint(value.z);
        k_cache[word.y + 1u] = floatBitsToUint(value.w);
    }
}

// A head of q (in place) or of k (to the cell of the pool). The loops stay loops: software drivers compile
// memory operations slowly, and a lane of a GPU has one quad.
void turn_head(bool query, uint at, uint cell, uint lane, uint position) {
    float scale = 1.0;
    [[dont_unroll]] for (uint pass = 1u - NORM; pass < 2u; pass++) {
        float squares = 0.0;
        [[dont_unroll]] for (uint quad = lane; quad < HEAD / 4u; quad += SG) {
            uvec2 e = quad_elements(quad);
            vec4 value = load(query, at, e);
            if (pass == 0u) {
                squares = fma(value.x, value.x, fma(value.y, value.y, squares));
                squares = fma(value.z, value.z, fma(value.w, value.w, squares));
            } else {
                if (NORM == 1u) {
                    value = value * scale * norm_weight(query, e);
                }
                value = rope_quad(value, quad, e, position);
                if (!query) {
                    key_store(cell, e, value);
                } else {
                    if (QSCALE == 1u) {
                        value *= q_scale[push.q_scale_at + position];
                    }
                    q[at + e.x] = value.x;
                    q[at + e.x + 1u] = value.y;
                    q[at + e.y] = value.z;
                    q[at + e.y + 1u] = value.w;
                }
            }
        }
        if (pass == 0u) {
            precise float mean = subgroup_sum(squares) / float(HEAD);
            precise float root = inversesqrt(mean + push.eps);
            scale = root;
        }
    }
}

// A head of v to the cell of the pool.
void value_store(uint at, uint cell, uint lane) {
    [[dont_unroll]] for (uint e = 2u * lane; e < HEAD_V; e += 2u * SG) {
        vec2 pair = vec2(v[at + e], v[at + e + 1u]);
        if (V_TYPE == KV_F16) {
            v_cache[push.v_cache_at + (cell + e) / 2u] = kv_pack(pair);
        } else {
            v_cache[push.v_cache_at + cell + e] = floatBitsToUint(pair.x);
            v_cache[push.v_cache_at + cell + e + 1u] = floatBitsToUint(pair.y);
        }
    }
}

void main() {
    uint row = gl_WorkGroupID.y;
    uint head = gl_WorkGroupID.x;
    if (row >= push.row_count || head >= push.n_head + 2u * push.n_kv) {
        return;
    }
    uint lane = gl_SubgroupInvocationID;
    uint position = rows[(push.rows_at >> 3u) + row].position;
    uint table = rows[(push.rows_at >> 3u) + row].table;
    bool query = head < push.n_head;
    // The KV head and its slot; a query has neither.
    uint kv = head - push.n_head;
    bool key = kv < push.n_kv;
    kv -= key ? 0u : push.n_kv;
    uint block = query ? 0u : block_table[push.block_table_at + table + position / KV_BLOCK];
    uint size = key ? HEAD : HEAD_V;
    uint cell = kv_base(block, push.n_kv, kv, size) + position % KV_BLOCK * size;
    if (query || key) {
        uint q_from = push.q_at + row * push.q_stride + head * HEAD;
        uint k_from = push.k_at + row * push.k_stride + kv * HEAD;
        turn_head(query, query ? q_from : k_from, cell, lane, position);
    } else {
        value_store(push.v_at + row * push.v_stride + kv * HEAD_V, cell, lane);
    }
}
