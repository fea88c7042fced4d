// Attention of one (row, head) over one chunk of KV_BLOCK absolute positions: one subgroup. D_SPLIT lanes
// share a key, SG / D_SPLIT keys are read at once. Writes the chunk's maximum score, sum of exponentials and
// weighted sum of values. The result depends on the row, the head and the chunk alone; keys that the row may
// not see are never read. D_SPLIT is a power of two, at most SG, and divides HEAD / 4 and HEAD_V / 4 (of a quantised
// type HEAD / 8 or HEAD_V / 8).
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
layout(constant_id = 4) const uint K_TYPE = 0u;
layout(constant_id = 5) const uint V_TYPE = 0u;
layout(constant_id = 6) const uint D_SPLIT = 8u;
// 0: loops over a head stay loops, which software drivers compile several times faster; same bits.
layout(constant_id = 7) const uint UNROLL = 1u;

#include "step.glsl"
#include "kv.glsl"

layout(binding = 0) readonly restrict buffer Q { float q[]; };
layout(binding = 1) readonly buffer KCache { uint k_cache[]; };
layout(binding = 1) readonly buffer KCache2 { uvec2 k_cache2[]; };
layout(binding = 1) readonly buffer KCache4 { uvec4 k_cache4[]; };
layout(binding = 2) readonly buffer VCache { uint v_cache[]; };
layout(binding = 2) readonly buffer VCache2 { uvec2 v_cache2[]; };
layout(binding = 2) readonly buffer VCache4 { uvec4 v_cache4[]; };
layout(binding = 3) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 4) readonly restrict buffer BlockTable { uint block_table[]; };
layout(binding = 5) writeonly restrict buffer Part { float part[]; };

layout(push_constant) uniform Push {
    uint q_at;
    uint k_cache_at;
    uint v_cache_at;
    uint rows_at;
    uint block_table_at;
    uint part_at;
    uint n_head;
    uint n_kv;
    uint q_stride;
    uint chunks_max;
    float scale;
    uint row_count;
} push;

#include "subgroup.glsl"

// Keys read at once.
const uint KEYS = SG / D_SPLIT;
// vec4s of a key and of a value that one lane handles.
const uint K_VECS = HEAD / 4u / D_SPLIT;
const uint V_VECS = HEAD_V / 4u / D_SPLIT;
// vec4s per load: one 16-byte load of f32, else two where a lane's share is even; it is for quantised types.
const uint K_STEP = K_TYPE == KV_F32 ? 1u : 2u - K_VECS % 2u;
const uint V_STEP = V_TYPE == KV_F32 ? 1u : 2u - V_VECS % 2u;
// vec4s of a value that are summed in one go over the keys.
const uint V_ONCE = UNROLL == 1u ? V_VECS : V_STEP;
// Below every score.
const float LOWEST = -3.0e38;

// A lane's own scores, then weights, between the passes: memory that a loop may index, no lane reads
// another's.
shared float scores[KV_BLOCK];

// First element of vec4 i of a lane's share: the lanes that share a key read neighbouring memory.
uint share_element(uint i, uint vecs_per_load, uint split) {
    return ((i / vecs_per_load) * D_SPLIT + split) * 4u * vecs_per_load + i % vecs_per_load * 4u;
}

// Words of the pool of keys or of values, from a multiple of 1, 2 or 4.
uint pool_word(bool key, uint at) {
    return key ? k_cache[push.k_cache_at + at] : v_cache[push.v_cache_at + at];
}

uvec2 pool_words2(bool key, uint at) {
    return key ? k_cache2[(push.k_cache_at + at) >> 1u] : v_cache2[(push.v_cache_at + at) >> 1u];
}

uvec4 pool_words4(bool key, uint at) {
    return key ? k_cache4[(push.k_cache_at + at) >> 2u] : v_cache4[(push.v_cache_at + at) >> 2u];
}

// One or two vec4s (K_STEP or V_STEP) of a key or value, from vec4 i of a lane's share.
void pool_load(bool key, uint tile, uint slot, uint i, uint split, out vec4 low, out vec4 high) {
    uint type = key ? K_TYPE : V_TYPE;
    uint size = key ? HEAD : HEAD_V;
    uint at_once = key ? K_STEP : V_STEP;
    uint element = share_element(i, at_once, split);
    uint word = tile + (slot * size + element) / kv_per_word(type);
    if (type == KV_F32) {
        low = uintBitsToFloat(pool_words4(key, word));
    } else if (!kv_quantised(type) && at_once == 2u) {
        uvec4 words = pool_words4(key, word);
        low = kv_unpack(type, words.xy);
        high = kv_unpack(type, words.zw);
    } else if (!kv_quantised(type)) {
        low = kv_unpack(type, pool_words2(key, word));
    } else {
        uint block = element / 32u;
        uint scale_at = tile + kv_scales(type, size) + slot * kv_scale_words(type, size);
        vec2 scale = unpackHalf2x16(pool_word(key, scale_at + (kv_has_min(type) ? block : block / 2u)));
        if (!kv_has_min(type)) {
            scale.x = block % 2u == 0u ? scale.x : scale.y;
        }
        uvec2 codes = type == KV_Q8_0 ? pool_words2(key, word) : uvec2(pool_word(key, word));
        uint fifths = 0u;
        if (kv_has_fifth(type)) {
            uint at = tile + kv_fifths(type, size) + slot * kv_fifth_words(type, size) + block;
            fifths = pool_word(key, at) >> element % 32u;
        }
        kv_decode(type, codes, fifths, scale, low, high);
    }
}

// vec4 i of a lane's share of the query.
vec4 query_load(uint at, uint i, uint split) {
    at += share_element(i, K_STEP, split);
    return vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
}

void main() {
    uint chunk = gl_WorkGroupID.x;
    uint head = gl_WorkGroupID.y;
    uint row = gl_WorkGroupID.z;
    if (row >= push.row_count || chunk >= push.chunks_max) {
        return;
    }
    uint position = rows[(push.rows_at >> 3u) + row].position;
    uint begin = rows[(push.rows_at >> 3u) + row].begin;
    uint first = chunk * KV_BLOCK;
    if (first > position || first + KV_BLOCK <= begin) {
        return;
    }
    // Visible slots of the chunk, both ends included.
    uint from = max(begin, first) - first;
    uint to = min(position - first, KV_BLOCK - 1u);

    uint lane = gl_SubgroupInvocationID;
    uint split = lane % D_SPLIT;
    uint group = lane / D_SPLIT;
    uint kv_head = head / (push.n_head / push.n_kv);
    uint block = block_table[push.block_table_at + rows[(push.rows_at >> 3u) + row].table + chunk];
    uint k_tile = kv_tile(K_TYPE, block, push.n_kv, kv_head, HEAD);
    uint v_tile = kv_tile(V_TYPE, block, push.n_kv, kv_head, HEAD_V);

    uint q_at = push.q_at + row * push.q_stride + head * HEAD;
    vec4 query[K_VECS];
    if (UNROLL == 1u) {
        [[unroll]] for (uint i = 0u; i < K_VECS; i++) {
            query[i] = query_load(q_at, i, split);
        }
    }

    // SG keys at a time, in D_SPLIT turns; the lane whose split equals the turn keeps its group's score.
    float top = LOWEST;
    [[dont_unroll]] for (uint base = from / SG * SG; base <= to; base += SG) {
        float own = LOWEST;
        [[dont_unroll]] for (uint turn = 0u; turn < D_SPLIT; turn++) {
            uint slot = base + turn * KEYS + group;
            bool visible = slot >= from && slot <= to;
            vec4 products = vec4(0.0);
            if (visible && UNROLL == 1u) {
                [[unroll]] for (uint i = 0u; i < K_VECS; i += K_STEP) {
                    vec4 low, high;
                    pool_load(true, k_tile, slot, i, split, low, high);
                    products = fma(query[i], low, products);
                    if (K_STEP == 2u) {
                        products = fma(query[i + 1u], high, products);
                    }
                }
            } else if (visible) {
                [[dont_unroll]] for (uint i = 0u; i < K_VECS; i += K_STEP) {
                    vec4 low, high;
                    pool_load(true, k_tile, slot, i, split, low, high);
                    products = fma(query_load(q_at, i, split), low, products);
                    if (K_STEP == 2u) {
                        products = fma(query_load(q_at, i + 1u, split), high, products);
                    }
                }
            }
            precise float score = (products.x + products.y) + (products.z + products.w);
            score = subgroup_sum_between(score, 1u, D_SPLIT);
            if (visible && turn == split) {
                own = score * push.scale;
            }
        }
        scores[base + lane] = own;
        top = max(top, own);
    }
    top = subgroup_max(top);

    float total = 0.0;
    [[dont_unroll]] for (uint base = from / SG * SG; base <= to; base += SG) {
        uint slot = base + split * KEYS + group;
        precise float below = scores[base + lane] - top;
        float weight = slot >= from && slot <= to ? exp(below) : 0.0;
        total += weight;
        scores[base + lane] = weight;
    }
    total = subgroup_sum(total);
    uint part_at = push.part_at + ((row * push.n_head + head) * push.chunks_max + chunk) * (HEAD_V + 2u);
    if (lane == 0u) {
        part[part_at] = top;
        part[part_at + 1u] = total;
    }

    [[dont_unroll]] for (uint first_vec = 0u; first_vec < V_VECS; first_vec += V_ONCE) {
        vec4 sums[V_ONCE];
        [[unroll]] for (uint i = 0u; i < V_ONCE; i++) {
            sums[i] = vec4(0.0);
        }
        [[dont_unroll]] for (uint base = from / SG * SG; base <= to; base += SG) {
            float own = scores[base + lane];
            [[dont_unroll]] for (uint turn = 0u; turn < D_SPLIT; turn++) {
                uint slot = base + turn * KEYS + group;
                float weight = subgroupShuffle(own, group * D_SPLIT + turn);
                if (slot >= from && slot <= to) {
                    [[unroll]] for (uint i = 0u; i < V_ONCE; i += V_STEP) {
                        vec4 low, high;
                        pool_load(false, v_tile, slot, first_vec + i, split, low, high);
                        sums[i] = fma(vec4(weight), low, sums[i]);
                        if (V_STEP == 2u) {
                            sums[i + 1u] = fma(vec4(weight), high, sums[i + 1u]);
                        }
                    }
                }
            }
        }
        [[unroll]] for (uint i = 0u; i < V_ONCE; i++) {
            vec4 sum = sums[i];
            [[unroll]] for (uint mask = D_SPLIT; mask < SG; mask <<= 1u) {
                sum += subgroupShuffleXor(sum, mask);
            }
            if (group == 0u) {
                uint at = part_at + 2u + share_element(first_vec + i, V_STEP, split);
                part[at] = sum.x;
                part[at + 1u] = sum.y;
                part[at + 2u] = sum.z;
                part[at + 3u] = sum.w;
            }
        }
    }
}
