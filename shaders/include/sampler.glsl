// How a token is chosen: the sampler's record and the arithmetic all stages share. The order is biases, penalties,
// top-k, typical-p, top-p, min-p, temperature; probabilities that truncation looks at are those of temperature 1.
//
// exp and ln are polynomials made of exactly rounded operations, masses are integers, and sums of integers have no
// order: the token depends neither on the driver, nor on the subgroup size, nor on what stands beside the row.

#include "philox.glsl"

struct Sampler {
    float inverse_temperature; // 0: greedy
    uint top_k;                // 0: off
    uint top_p;                // share of the mass, in units of 2^-32; 0: off
    float min_p_distance;      // -ln(min_p): how far below the largest logit a token may be; 3e38: off
    uint seed_low;
    uint seed_high;
    float repeat_penalty;
    float repeat_inverse;      // 1 / repeat_penalty
    float frequency_penalty;
    float presence_penalty;
    uint penalty_window;       // tokens the penalties look back on; 0: no penalties
    uint history;              // word at which the session's ring of tokens begins
    uint biases;               // word at which the session's biases begin, two for each
    uint bias_count;
    uint typical_p;            // share of the mass, in units of 2^-32; 0: off
    uint reserved;
};

// Marks that no token can be chosen.
const uint NO_TOKEN = 0xffffffffu;
// StepRow.flags: the row moves on to the chosen token.
const uint ROW_ADVANCE = 1u;
// StepRow.flags: the row stands for nothing; it is computed, and what comes of it is ignored.
const uint ROW_IDLE = 2u;

// Ids per partial result of `argmax`; its words: largest key, lowest id that has it, mass in units of 2^-21 of the mass
// of that key.
const uint SLICE = 512u;
const uint PARTIAL_WORDS = 3u;
// Slices per workgroup of the stages between `argmax` and `sample`.
const uint GROUP = 8u;

const uint MINUS_INFINITY = 0xff800000u;

// A token whose key is 0 cannot be chosen: its logit is NaN or -infinity.
const uint KEY_NONE = 0u;

// Maps the bits of a logit to an unsigned integer of the same order; both zeros are one.
uint key_of(uint bits) {
    uint magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u || bits == MINUS_INFINITY) {
        return KEY_NONE;
    }
    return (bits >> 31u) != 0u && magnitude != 0u ? ~bits : magnitude | 0x80000000u;
}

// The logit of a key that is not KEY_NONE, within limits that keep differences finite.
float logit_of(uint key) {
    uint bits = (key >> 31u) != 0u ? key & 0x7fffffffu : ~key;
    // Decided on integers, because arithmetic on an infinity may be undefined.
    const uint LIMIT = 0x7e967699u; // 1e38
    return uintBitsToFloat((bits & 0x80000000u) | min(bits & 0x7fffffffu, LIMIT));
}

// How far below the row's largest logit a logit is.
float distance_of(uint key, uint top_key) {
    precise float distance = logit_of(top_key) - logit_of(key);
    return distance;
}

// exp(-distance) for 0 <= distance < 21.5.
float exp_minus(float distance) {
    precise float n = floor(distance * 1.44269502 + 0.5);
    // ln 2 in two parts, the first short enough for exact products.
    precise float r = (distance - n * 0.693359375) + n * 2.12194442e-4;
    precise float q = 0.00139517151;
    q = q * r - 0.00836959761;
    q = q * r + 0.0416661873;
    q = q * r - 0.166665122;
    q = q * r + 0.5;
    precise float e = (q * r) * r - r;
    e = e + 1.0;
    return e * uintBitsToFloat((127u - uint(n)) << 23u);
}

// Distances whose mass is below one unit in 2^31.
const float NEGLIGIBLE = 21.5;

// exp(-distance) in units of 2^-31.
uint mass_of(float distance) {
    return distance < NEGLIGIBLE ? uint(exp_minus(distance) * 2147483648.0) : 0u;
}

// A distance in units of 2^-14, as far as it has mass.
uint far_of(float distance) {
    return uint(min(distance, NEGLIGIBLE) * 16384.0);
}

// ln(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1].
float ln_near_one(float f) {
    precise float q = -0.0783658102;
    q = q * f + 0.130237684;
    q = q * f - 0.132126108;
    q = q * f + 0.141608626;
    q = q * f - 0.16610451;
    q = q * f + 0.200031236;
    q = q * f - 0.250015497;
    q = q * f + 0.333333075;
    q = q * f - 0.499999881;
    precise float ln = (q * f) * f + f;
    return ln;
}

// ln(x) for normal x > 0.
float ln_of(float x) {
    uint bits = floatBitsToUint(x);
    int exponent = int(bits - 0x3f3504f3u) >> 23;
    float f = uintBitsToFloat(bits - (uint(exponent) << 23u)) - 1.0;
    float n = float(exponent);
    precise float ln = n * 0.693359375 + (ln_near_one(f) - n * 2.12194442e-4);
    return ln;
}

// Gumbel noise -ln(-ln u) of a random word, u = 1 - (word + 1/2) / 2^32. Large noise comes from u near 1, where only
// the complement has digits left.
float gumbel_of(uint word) {
    precise float complement = (float(word) + 0.5) * 2.32830644e-10;
    precise float u = (float(~word) + 0.5) * 2.32830644e-10;
    precise float exponential = complement < 0.29 ? -ln_near_one(-complement) : -ln_of(u);
    return -ln_of(exponential);
}

// What decides between tokens that survived truncation; the largest score wins.
float score_of(float distance, float inverse_temperature, uint word) {
    precise float score = gumbel_of(word) - min(distance, 1.0e30) * inverse_temperature;
    return score;
}

// 64-bit sums as (low, high).
uvec2 add64(uvec2 a, uvec2 b) {
    uint carry;
    uint low = uaddCarry(a.x, b.x, carry);
    return uvec2(low, a.y + b.y + carry);
}

uvec2 sub64(uvec2 a, uvec2 b) {
    uint borrow;
    uint low = usubBorrow(a.x, b.x, borrow);
    return uvec2(low, a.y - b.y - borrow);
}

bool at_least64(uvec2 a, uvec2 b) {
    return a.y > b.y || (a.y == b.y && a.x >= b.x);
}

// a * share / 2^32, rounded down, but at least 1.
uvec2 share64(uvec2 a, uint share) {
    uint high, low, carried, unused;
    umulExtended(a.y, share, high, low);
    umulExtended(a.x, share, carried, unused);
    uvec2 product = add64(uvec2(low, high), uvec2(carried, 0u));
    return product == uvec2(0u) ? uvec2(1u, 0u) : product;
}
