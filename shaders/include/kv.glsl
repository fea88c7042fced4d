// The KV pools: [block][kv_head] tiles of words. A tile holds KV_BLOCK positions of one head in three parts, each
// position by position, so that loads are whole aligned words and whoever writes a position owns its words:
//   codes   f32: a word per element; f16, bf16: two elements per word, the first in the low half; q8_0: four signed
//           bytes; five and four bits: eight elements, four in the low nibbles of the bytes, four in the high ones
//   fifths  (q5_1, q5_0) a word per 32 elements: bit e is the fifth bit of element e
//   scales  (quantised types) per 32 elements f16 d, for q5_1 and q4_1 d and m; filled up to whole words
// element = d * level + m, the levels of a code being those of GGUF's blocks of the same name.

#include "non_linear.glsl"

const uint KV_F32 = 0u;
const uint KV_F16 = 1u;
const uint KV_BF16 = 2u;
const uint KV_Q8_0 = 3u;
const uint KV_Q5_1 = 4u;
const uint KV_Q5_0 = 5u;
const uint KV_Q4_1 = 6u;
const uint KV_Q4_0 = 7u;
const uint KV_IQ4_NL = 8u;

bool kv_quantised(uint type) {
    return type >= KV_Q8_0;
}

bool kv_has_fifth(uint type) {
    return type == KV_Q5_1 || type == KV_Q5_0;
}

bool kv_has_min(uint type) {
    return type == KV_Q5_1 || type == KV_Q4_1;
}

// Elements whose codes fill a word.
uint kv_per_word(uint type) {
    return type == KV_F32 ? 1u : type <= KV_BF16 ? 2u : type == KV_Q8_0 ? 4u : 8u;
}

// Words of one position in the three parts.
uint kv_code_words(uint type, uint size) {
    return size / kv_per_word(type);
}

uint kv_fifth_words(uint type, uint size) {
    return kv_has_fifth(type) ? size / 32u : 0u;
}

uint kv_scale_words(uint type, uint size) {
    return !kv_quantised(type) ? 0u : kv_has_min(type) ? size / 32u : (size / 32u + 1u) / 2u;
}

// Words from a tile's start to its fifths and to its scales.
uint kv_fifths(uint type, uint size) {
    return KV_BLOCK * kv_code_words(type, size);
}

uint kv_scales(uint type, uint size) {
    return kv_fifths(type, size) + KV_BLOCK * kv_fifth_words(type, size);
}

// First word of a tile.
uint kv_tile(uint type, uint block, uint n_kv, uint kv_head, uint size) {
    return (block * n_kv + kv_head) * (kv_scales(type, size) + KV_BLOCK * kv_scale_words(type, size));
}

vec4 kv_bytes(uint word) {
    return vec4(word & 0xffu, word >> 8u & 0xffu, word >> 16u & 0xffu, word >> 24u);
}

vec4 kv_signed_bytes(uint word) {
    int bytes = int(word);
    return vec4(bitfieldExtract(bytes, 0, 8), bitfieldExtract(bytes, 8, 8), bitfieldExtract(bytes, 16, 8), bytes >> 24);
}

vec4 kv_unpack(uint type, uvec2 words) {
    if (type == KV_BF16) {
        return uintBitsToFloat(uvec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
    }
    return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
}

// The lowest four bits, one per byte, as the bytes' bit 4.
uint kv_fifth_bits(uint bits) {
    return ((bits & 15u) * 0x02040810u) & 0x10101010u;
}

// Eight elements of a quantised type. `codes` are the words of their codes, `fifths` holds their fifth bits lowest.
void kv_decode(uint type, uvec2 codes, uint fifths, vec2 scale, out vec4 low, out vec4 high) {
    if (type == KV_Q8_0) {
        low = scale.x * kv_signed_bytes(codes.x);
        high = scale.x * kv_signed_bytes(codes.y);
    } else if (type == KV_IQ4_NL) {
        low = scale.x * kv_signed_bytes(uint(non_linear(codes.x)));
        high = scale.x * kv_signed_bytes(uint(non_linear(codes.x >> 4u)));
    } else {
        uint even = codes.x & 0x0f0f0f0fu;
        uint odd = codes.x >> 4u & 0x0f0f0f0fu;
        if (kv_has_fifth(type)) {
            even |= kv_fifth_bits(fifths);
            odd |= kv_fifth_bits(fifths >> 4u);
        }
        low = kv_bytes(even);
        high = kv_bytes(odd);
        if (kv_has_min(type)) {
            // The products are exact.
            low = fma(low, scale.xxxx, scale.yyyy);
            high = fma(high, scale.xxxx, scale.yyyy);
        } else {
            float zero = kv_has_fifth(type) ? 16.0 : 8.0;
            low = scale.x * (low - zero);
            high = scale.x * (high - zero);
        }
    }
}
