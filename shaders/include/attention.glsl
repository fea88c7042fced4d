// What all ways of attention share. One workgroup, one subgroup, computes a tile of PAIRS (row, head) pairs that read the
// same KV head over one chunk of KV_BLOCK absolute positions, so that keys and values are loaded once for all of them. The
// grid is (tiles, KV heads, chunks, counted from the row's first where the layer has a window); pair number i of a KV head is head i % group of row i / group. Per pair the chunk's
// maximum score, sum of exponentials and weighted sum of values are written. Their bits depend on the row, the head and
// the chunk alone: what other pairs see and this one does not is selected away.

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint HEAD = 128u;
layout(constant_id = 3) const uint HEAD_V = 128u;
layout(constant_id = 4) const uint K_TYPE = 0u;
layout(constant_id = 5) const uint V_TYPE = 0u;
// At most 32.
layout(constant_id = 6) const uint PAIRS = 1u;
// 1 holds scores within push.cap.
layout(constant_id = 8) const uint CAP = 0u;
// 1: values are the last HEAD_V elements of keys, and both caches are the same.
layout(constant_id = 9) const uint V_IN_K = 0u;

#include "step.glsl"
#include "kv.glsl"
#include "soft_cap.glsl"

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
    // Keys that a row sees, its own included; 0 for all.
    uint window;
    float cap;
} push;

#include "subgroup.glsl"

// Elements of a cell before its value.
const uint HEAD_SKIPPED = V_IN_K == 1u ? HEAD - HEAD_V : 0u;

// Below every score.
const float LOWEST = -3.0e38;

// Scores, then weights, of each pair and slot: memory that a loop may index, no lane reads another's.
shared float scores[PAIRS * KV_BLOCK];

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

// 8 or, of a quantised type, also 16 elements of a key or value from a multiple of as many.
void pool_load(bool key, uint tile, uint slot, uint element, uint count, out vec4 x[4]) {
    uint type = key ? K_TYPE : V_TYPE;
    uint size = key || V_IN_K == 1u ? HEAD : HEAD_V;
    element += key ? 0u : HEAD_SKIPPED;
    uint word = tile + (slot * size + element) / kv_per_word(type);
    if (type == KV_F32) {
        x[0] = uintBitsToFloat(pool_words4(key, word));
        x[1] = uintBitsToFloat(pool_words4(key, word + 4u));
    } else if (!kv_quantised(type)) {
        uvec4 words = pool_words4(key, word);
        x[0] = kv_unpack(type, words.xy);
        x[1] = kv_unpack(type, words.zw);
    } else {
        uint block = element / 32u;
        uint scale_at = tile + kv_scales(type, size) + slot * kv_scale_words(type, size);
        vec2 scale = unpackHalf2x16(pool_word(key, scale_at + (kv_has_min(type) ? block : block / 2u)));
        if (!kv_has_min(type)) {
            scale.x = block % 2u == 0u ? scale.x : scale.y;
        }
        uint fifths = 0u;
        if (kv_has_fifth(type)) {
            uint at = tile + kv_fifths(type, size) + slot * kv_fifth_words(type, size) + block;
            fifths = pool_word(key, at) >> element % 32u;
        }
        if (count == 8u) {
            uvec2 codes = type == KV_Q8_0 ? pool_words2(key, word) : uvec2(pool_word(key, word));
            kv_decode(type, codes, fifths, scale, x[0], x[1]);
        } else {
            uvec4 codes = type == KV_Q8_0 ? pool_words4(key, word) : pool_words2(key, word).xxyy;
            kv_decode(type, codes.xy, fifths, scale, x[0], x[1]);
            kv_decode(type, codes.zw, fifths >> 8u, scale, x[2], x[3]);
        }
    }
}

// A score from the product of query and key.
float scaled(float product) {
    precise float score = product * push.scale;
    return CAP == 1u ? soft_cap(score, push.cap) : score;
}

// The pairs of this workgroup.
uint pair_number(uint p) {
    return gl_WorkGroupID.x * PAIRS + p;
}

uint pair_row(uint p) {
    return pair_number(p) / (push.n_head / push.n_kv);
}

uint pair_head(uint p) {
    uint group = push.n_head / push.n_kv;
    return gl_WorkGroupID.y * group + pair_number(p) % group;
}

// First element of the query; of some query where the pair does not exist.
uint pair_query(uint p) {
    return push.q_at + min(pair_row(p), push.row_count - 1u) * push.q_stride + pair_head(p) * HEAD;
}

uint pair_part(uint p) {
    uint number = (pair_row(p) * push.n_head + pair_head(p)) * push.chunks_max + gl_WorkGroupID.z;
    return push.part_at + number * (HEAD_V + 2u);
}

// Slots of the chunk, both ends included, that a pair sees; from > to when there are none.
struct Slots {
    uint from;
    uint to;
    uint block;
};

const uint NO_SLOT = KV_BLOCK;

uint value_tile(uint block) {
    return kv_tile(V_TYPE, block, push.n_kv, gl_WorkGroupID.y, V_IN_K == 1u ? HEAD : HEAD_V);
}

// What each pair sees. Arrays of numbers: those of structs stay in memory on some drivers.
uint own_from[PAIRS];
uint own_to[PAIRS];
uint own_block[PAIRS];

Slots pair_slots(uint p) {
    uint row = pair_row(p);
    Slots slots = Slots(NO_SLOT, 0u, 0u);
    if (row < push.row_count && gl_WorkGroupID.z < push.chunks_max && gl_WorkGroupID.y < push.n_kv) {
        uint position = rows[(push.rows_at >> 3u) + row].position;
        uint begin = window_begin(rows[(push.rows_at >> 3u) + row].begin, position, push.window);
        uint chunk = window_chunk(begin, push.window) + gl_WorkGroupID.z;
        uint first = chunk * KV_BLOCK;
        if (first <= position && first + KV_BLOCK > begin) {
            uint table = rows[(push.rows_at >> 3u) + row].table;
            slots.from = max(begin, first) - first;
            slots.to = min(position - first, KV_BLOCK - 1u);
            slots.block = block_table[push.block_table_at + table + chunk];
        }
    }
    return slots;
}

bool sees(uint p, uint slot) {
    return slot >= own_from[p] && slot <= own_to[p];
}

// Finds what the pairs see; the pairs that see anything, as bits. A loop that sorts into registers: loads are long code
// for software drivers, selections short.
uint pairs_that_see() {
    uint some = 0u;
    [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
        Slots one = pair_slots(i);
        some |= uint(one.from <= one.to) << i;
        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
            own_from[p] = p == i ? one.from : own_from[p];
            own_to[p] = p == i ? one.to : own_to[p];
            own_block[p] = p == i ? one.block : own_block[p];
        }
    }
    return some;
}

// Pairs that share a block, as bits, and the slots that any of them and that all of them see.
struct Shared {
    uint pairs;
    Slots some;
    Slots every;
};

// Of the pairs in `left`, those that share the block of the lowest; they leave `left`.
Shared pairs_of_a_block(inout uint left) {
    Shared s;
    uint lead = uint(findLSB(left));
    uint block = 0u;
    [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
        block = p == lead ? own_block[p] : block;
    }
    s.pairs = 0u;
    s.some = Slots(NO_SLOT, 0u, block);
    s.every = Slots(0u, NO_SLOT, block);
    [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
        uint bit = own_block[p] == block ? left & 1u << p : 0u;
        s.pairs |= bit;
        s.some.from = min(s.some.from, bit != 0u ? own_from[p] : NO_SLOT);
        s.some.to = max(s.some.to, bit != 0u ? own_to[p] : 0u);
        s.every.from = max(s.every.from, bit != 0u ? own_from[p] : 0u);
        s.every.to = min(s.every.to, bit != 0u ? own_to[p] : NO_SLOT);
    }
    left &= ~s.pairs;
    return s;
}

bool is_shared(Shared s, uint p) {
    return (s.pairs >> p & 1u) != 0u;
}
