// Heads of a row on their way from projection to attention: norm, RoPE and scale of q in place; norm and RoPE
// of k, and v, into the KV pools. One subgroup per head: q heads first, then k heads, then v heads. HEAD
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
layout(constant_id = 6) const uint NORM = 0u; // 1 before the rotation, 2 behind it
layout(constant_id = 7) const uint QSCALE = 0u;
layout(constant_id = 8) const uint K_TYPE = 0u;
layout(constant_id = 9) const uint V_TYPE = 0u;
// 1: values are normalised, without weights.
layout(constant_id = 10) const uint V_NORM = 0u;

#include "step.glsl"
#include "kv.glsl"
#include "kv_quantise.glsl"

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
    // What goes to the pools: nothing, keys, or keys and values.
    uint stored;
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

void word_store(bool key, uint at, uint word) {
    if (key) {
        k_cache[push.k_cache_at + at] = word;
    } else {
        v_cache[push.v_cache_at + at] = word;
    }
}

// Two neighbours of a float type.
void pair_store(bool key, uint type, uint tile, uint element, vec2 pair) {
    if (type == KV_F32) {
        word_store(key, tile + element, floatBitsToUint(pair.x));
        word_store(key, tile + element + 1u, floatBitsToUint(pair.y));
    } else {
        word_store(key, tile + element / 2u, kv_pack(type, pair));
    }
}

// Two neighbours of a key, normalised and turned. A lane that quantises needs neighbours, so it computes both sides of
// a rotation and keeps one: no lane waits for another. The bits are those of turn_head.
vec2 key_pair(uint at, uint e, float scale, uint position) {
    bool halves = PAIRING == 2u && e < ROT;
    uint first = halves ? e % (ROT / 2u) : e;
    uvec2 pairs = uvec2(first, halves ? first + ROT / 2u : first);
    vec4 value = load(false, at, pairs);
    if (NORM == 1u) {
        value = value * scale * norm_weight(false, pairs);
    }
    vec2 pair = value.xy;
    if (halves) {
        vec2 even = rotate(value.x, value.z, turn(position, first));
        vec2 odd = rotate(value.y, value.w, turn(position, first + 1u));
        pair = e == first ? vec2(even.x, odd.x) : vec2(even.y, odd.y);
    } else if (PAIRING == 1u && e < ROT) {
        pair = rotate(value.x, value.y, turn(position, e / 2u));
    }
    if (NORM == 2u) {
        uint at = push.k_norm_at + e;
        pair = pair * scale * vec2(k_norm[at], k_norm[at + 1u]);
    }
    return pair;
}

// Quantises a head of k or v to its cells. Four lanes share a block of 32 and take two blocks in turn, because
// two scales share a word.
void quantised_store(bool key, uint at, uint tile, uint lane, float scale, uint position) {
    uint type = key ? K_TYPE : V_TYPE;
    uint size = key ? HEAD : HEAD_V;
    uint blocks = size / 32u;
    uint slot = position % KV_BLOCK;
    uint codes_at = tile + slot * kv_code_words(type, size);
    uint fifths_at = tile + kv_fifths(type, size) + slot * kv_fifth_words(type, size);
    uint scales_at = tile + kv_scales(type, size) + slot * kv_scale_words(type, size);
#ifdef WAY_SAFE
    [[dont_unroll]] for (uint turn = 0u; turn < blocks; turn += SG / 4u * 2u) {
        uint first = turn + lane / 4u * 2u;
        uint halves = 0u;
        [[dont_unroll]] for (uint number = first; number < first + 2u; number++) {
            live = number < blocks;
            uint block = min(number, blocks - 1u);
#else
    [[dont_unroll]] for (uint first = lane / 4u * 2u; first < blocks; first += SG / 4u * 2u) {
        uint halves = 0u;
        [[dont_unroll]] for (uint block = first; block < min(first + 2u, blocks); block++) {
#endif
            uint e = block * 32u + lane % 4u * 8u;
            vec2 pair[4];
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                uint element = e + 2u * i;
                pair[i] = key ? key_pair(at, element, scale, position) : scale * vec2(v[at + element], v[at + element + 1u]);
            }
            KvUnit unit = kv_quantise(type, vec4(pair[0], pair[1]), vec4(pair[2], pair[3]));
            uint word = codes_at + e / kv_per_word(type);
            IF_LIVE {
                word_store(key, word, unit.codes.x);
            }
            if (WHERE_LIVE(type == KV_Q8_0)) {
                word_store(key, word + 1u, unit.codes.y);
            }
            if (WHERE_LIVE(kv_has_fifth(type) && lane % 4u == 0u)) {
                word_store(key, fifths_at + block, unit.fifths);
            }
            if (!kv_has_min(type)) {
                IF_LIVE {
                    halves |= unit.scale << 16u * (block - first);
                }
            } else if (WHERE_LIVE(lane % 4u == 0u)) {
                word_store(key, scales_at + block, unit.scale);
            }
        }
#ifdef WAY_SAFE
        live = first < blocks;
#endif
        if (WHERE_LIVE(!kv_has_min(type) && lane % 4u == 0u)) {
            word_store(key, scales_at + first / 2u, halves);
        }
    }
}

// A head of q (in place) or of k (to its cells). The loops stay loops: software drivers compile memory operations
// slowly, and a lane of a GPU has one quad.
void turn_head(bool query, uint at, uint tile, uint lane, uint position) {
    float scale = 1.0;
    bool later = !query && kv_quantised(K_TYPE);
    [[dont_unroll]] for (uint pass = NORM == 0u ? 1u : 0u; pass < (later ? 1u : 2u); pass++) {
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
                if (NORM == 2u) {
                    value = value * scale * norm_weight(query, e);
                }
                if (!query) {
                    uvec2 element = position % KV_BLOCK * HEAD + e;
                    pair_store(true, K_TYPE, tile, element.x, value.xy);
                    pair_store(true, K_TYPE, tile, element.y, value.zw);
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
    if (later) {
        quantised_store(true, at, tile, lane, scale, position);
    }
}

// A head of v to its cells.
void value_store(uint at, uint tile, uint lane, uint position) {
    float scale = 1.0;
    if (V_NORM == 1u) {
        float squares = 0.0;
        [[dont_unroll]] for (uint e = lane; e < HEAD_V; e += SG) {
            squares = fma(v[at + e], v[at + e], squares);
        }
        precise float mean = subgroup_sum(squares) / float(HEAD_V);
        precise float root = inversesqrt(mean + push.eps);
        scale = root;
    }
    if (kv_quantised(V_TYPE)) {
        quantised_store(false, at, tile, lane, scale, position);
        return;
    }
    [[dont_unroll]] for (uint e = 2u * lane; e < HEAD_V; e += 2u * SG) {
        vec2 pair = scale * vec2(v[at + e], v[at + e + 1u]);
        pair_store(false, V_TYPE, tile, position % KV_BLOCK * HEAD_V + e, pair);
    }
}

void main() {
    uint row = gl_WorkGroupID.y;
    uint head = gl_WorkGroupID.x;
    if (row >= push.row_count || head >= push.n_head + push.stored * push.n_kv) {
        return;
    }
    uint lane = LANE;
    uint position = rows[(push.rows_at >> 3u) + row].position;
    uint table = rows[(push.rows_at >> 3u) + row].table;
    bool query = head < push.n_head;
    // The KV head and its slot; a query has neither.
    uint kv = head - push.n_head;
    bool key = kv < push.n_kv;
    kv -= key ? 0u : push.n_kv;
    uint block = query ? 0u : block_table[push.block_table_at + table + position / KV_BLOCK];
    if (query || key) {
        uint tile = kv_tile(K_TYPE, block, push.n_kv, kv, HEAD);
        uint q_from = push.q_at + row * push.q_stride + head * HEAD;
        uint k_from = push.k_at + row * push.k_stride + kv * HEAD;
        turn_head(query, query ? q_from : k_from, tile, lane, position);
    } else {
        uint tile = kv_tile(V_TYPE, block, push.n_kv, kv, HEAD_V);
        value_store(push.v_at + row * push.v_stride + kv * HEAD_V, tile, lane, position);
    }
}
