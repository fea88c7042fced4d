// Values to the types of the KV pools. The rules are those of ggml's reference quantisers; ties are stated at each.
// Everything saturates, blocks at 1e9: an infinity in the cache would turn whole rows into NaN.

#include "exchange.glsl"

// Two neighbours as one word of f16 or bf16.
uint kv_pack(uint type, vec2 pair) {
    if (type == KV_BF16) {
        // To nearest, ties to even.
        uvec2 bits = floatBitsToUint(clamp(pair, -3.3895314e38, 3.3895314e38));
        bits += 0x7fffu + (bits >> 16u & 1u);
        return bits.x >> 16u | (bits.y & 0xffff0000u);
    }
    return packHalf2x16(clamp(pair, -65504.0, 65504.0));
}

// f16 to nearest, ties to even, whatever the driver's conversion does; zero has no sign.
uint kv_half(float value) {
    uint bits = floatBitsToUint(clamp(value, -65504.0, 65504.0));
    uint size = bits & 0x7fffffffu;
    uint small = uint(roundEven(uintBitsToFloat(size) * 16777216.0));
    uint normal = (size - 0x38000000u + 0xfffu + (size >> 13u & 1u)) >> 13u;
    uint half_size = size < 0x38800000u ? small : normal;
    return half_size == 0u ? 0u : half_size | (bits >> 16u & 0x8000u);
}

// Eight elements of a block: their codes, the fifth bits of the whole block, and the block's f16 d and m.
struct KvUnit {
    uvec2 codes;
    uint fifths;
    uint scale;
};

uint kv_bytes_word(uvec4 bytes) {
    return bytes.x | bytes.y << 8u | bytes.z << 16u | bytes.w << 24u;
}

// Whole numbers 0..=most of values that lie there but for rounding; what is behind the point is cut off.
uvec4 kv_codes(vec4 value, float most) {
    return uvec4(clamp(value, 0.0, most));
}

// To nearest, ties away from zero.
vec4 kv_round(vec4 value) {
    vec4 whole = trunc(value);
    return whole + sign(value) * vec4(greaterThanEqual(abs(value - whole), vec4(0.5)));
}

// Codes of the levels of iq4_nl nearest to values, the upper of two: how many middles between levels are not above.
uvec4 kv_nearest(vec4 value) {
    const float middles[15] = float[](-115.5, -93.5, -74.0, -57.0, -42.0, -28.5, -16.0, -4.5, 7.0, 19.0, 31.5, 45.5,
        61.0, 79.0, 101.0);
    uvec4 code = uvec4(0u);
    [[unroll]] for (uint i = 0u; i < 15u; i++) {
        code += uvec4(greaterThanEqual(value, vec4(middles[i])));
    }
    return code;
}

// The value of the greater size, of two alike the one of the lower lane.
float kv_farther(float own, float other, bool other_first) {
    float far = abs(other) - abs(own);
    return far > 0.0 || far == 0.0 && other_first ? other : own;
}

// A block of 32 by four neighbouring lanes, each of which owns eight neighbours; all four call it together.
KvUnit kv_quantise(uint type, vec4 a, vec4 b) {
    uint lane = LANE & 3u;
    a = clamp(a, -1.0e9, 1.0e9);
    b = clamp(b, -1.0e9, 1.0e9);
    float low = min(min(min(a.x, a.y), min(a.z, a.w)), min(min(b.x, b.y), min(b.z, b.w)));
    float high = max(max(max(a.x, a.y), max(a.z, a.w)), max(max(b.x, b.y), max(b.z, b.w)));
    // The first of the eight that is farthest from zero.
    float far = a.x;
    [[unroll]] for (uint i = 1u; i < 8u; i++) {
        far = kv_farther(far, i < 4u ? a[i % 4u] : b[i % 4u], false);
    }
    [[unroll]] for (uint mask = 1u; mask < 4u; mask <<= 1u) {
        low = min(low, subgroupShuffleXor(low, mask));
        high = max(high, subgroupShuffleXor(high, mask));
        far = kv_farther(far, subgroupShuffleXor(far, mask), (lane & mask) != 0u);
    }
    bool ranged = kv_has_min(type);
    bool five = kv_has_fifth(type);
    precise float span = high - low;
    precise float d = type == KV_Q8_0 ? abs(far) / 127.0
        : ranged ? span / (five ? 31.0 : 15.0)
        : far / (type == KV_IQ4_NL ? -127.0 : five ? -16.0 : -8.0);
    // Below this the reciprocal would overflow, and f16 holds no scale anyway.
    precise float inverse = abs(d) >= 1.0e-30 ? 1.0 / d : 0.0;
    float zero = ranged ? low : 0.0;
    precise vec4 x = (a - zero) * inverse;
    precise vec4 y = (b - zero) * inverse;
    KvUnit unit;
    unit.codes = uvec2(0u);
    unit.fifths = 0u;
    if (type == KV_Q8_0) {
        uvec4 c = uvec4(ivec4(clamp(kv_round(x), -127.0, 127.0))) & 0xffu;
        uvec4 e = uvec4(ivec4(clamp(kv_round(y), -127.0, 127.0))) & 0xffu;
        unit.codes = uvec2(kv_bytes_word(c), kv_bytes_word(e));
    } else if (type == KV_IQ4_NL) {
        uvec4 c = kv_nearest(x);
        uvec4 e = kv_nearest(y);
        unit.codes.x = kv_bytes_word(c) | kv_bytes_word(e) << 4u;
        // The scale that makes the squared error, weighted by squares, least: sums over eight in order, then a tree.
        vec4 p = kv_signed_bytes(uint(non_linear(unit.codes.x)));
        vec4 q = kv_signed_bytes(uint(non_linear(unit.codes.x >> 4u)));
        precise float products = 0.0;
        precise float squares = 0.0;
        [[unroll]] for (uint i = 0u; i < 8u; i++) {
            float level = i < 4u ? p[i % 4u] : q[i % 4u];
            float value = i < 4u ? a[i % 4u] : b[i % 4u];
            precise float weighted = value * value * level;
            products += weighted * value;
            squares += weighted * level;
        }
        [[unroll]] for (uint mask = 1u; mask < 4u; mask <<= 1u) {
            products += subgroupShuffleXor(products, mask);
            squares += subgroupShuffleXor(squares, mask);
        }
        d = squares > 0.0 && inverse != 0.0 ? products / squares : 0.0;
    } else {
        // To nearest, ties up.
        float most = five ? 31.0 : 15.0;
        float middle = ranged ? 0.5 : five ? 16.5 : 8.5;
        precise vec4 up = x + middle;
        uvec4 c = kv_codes(up, most);
        up = y + middle;
        uvec4 e = kv_codes(up, most);
        unit.codes.x = kv_bytes_word(c & 15u) | kv_bytes_word(e & 15u) << 4u;
        if (five) {
            c >>= 4u;
            e >>= 4u;
            uint bits = c.x | c.y << 1u | c.z << 2u | c.w << 3u | e.x << 4u | e.y << 5u | e.z << 6u | e.w << 7u;
            unit.fifths = bits << (8u * lane);
            [[unroll]] for (uint mask = 1u; mask < 4u; mask <<= 1u) {
                unit.fifths |= subgroupShuffleXor(unit.fifths, mask);
            }
        }
    }
    unit.scale = kv_half(d) | (ranged ? kv_half(low) << 16u : 0u);
    return unit;
}
