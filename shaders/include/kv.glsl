// The KV pools: [block][kv_head][KV_BLOCK positions][size], f32 or f16 (two per word, low half first).

const uint KV_F32 = 0u;
const uint KV_F16 = 1u;

// Element index of the first position a block holds for a head.
uint kv_base(uint block, uint n_kv, uint kv_head, uint size) {
    return (block * n_kv + kv_head) * KV_BLOCK * size;
}

// Two neighbours as one f16 word; saturating, because an infinity would turn a whole row into NaN.
uint kv_pack(vec2 pair) {
    return packHalf2x16(clamp(pair, -65504.0, 65504.0));
}

vec4 kv_unpack(uvec2 words) {
    return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
}
