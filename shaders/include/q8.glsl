// The int8 form of blocks of 32 values. LANES neighbouring lanes share a block and each owns QUADS vec4s of
// it: few memory operations per lane, and neighbours touch neighbouring memory. The kernel has declared SG
// and y_q8[].

#include "exchange.glsl"

// Words of a block: 8 of int8, the scale, the scaled sums of both halves, zero.
const uint Q8_WORDS = 12u;
const uint LANES = SG < 8u ? SG : 8u;
const uint QUADS = 8u / LANES;
// Values a lane owns.
const uint OWN = 4u * QUADS;

// Lane items of a row of k values. Rows never share a block, so the last items of a row may own nothing.
uint q8_items(uint k) {
    return (k + 31u) / 32u * LANES;
}

// Writes what item `item` owns of the block that starts at word `at`. All lanes of a block call it together.
void q8_write(uint at, uint item, bool live, vec4 v[QUADS]) {
    float amax = 0.0;
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        vec4 a = abs(v[i]);
        amax = max(amax, max(max(a.x, a.y), max(a.z, a.w)));
    }
    [[unroll]] for (uint mask = 1u; mask < LANES; mask <<= 1u) {
        amax = max(amax, subgroupShuffleXor(amax, mask));
    }
    // Below this the reciprocal would overflow; such a block counts as zero.
    bool some = amax >= 1.0e-30;
    float d = some ? amax * (1.0 / 127.0) : 0.0;
    float inverse = some ? 127.0 / amax : 0.0;
    uint part = item % LANES;
    int sum = 0;
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        ivec4 q = ivec4(roundEven(v[i] * inverse));
        sum += q.x + q.y + q.z + q.w;
        uvec4 bytes = uvec4(q) & 0xffu;
        if (live) {
            y_q8[at + part * QUADS + i] = bytes.x | bytes.y << 8u | bytes.z << 16u | bytes.w << 24u;
        }
    }
    // Half of the lanes hold half of the block.
    [[unroll]] for (uint mask = 1u; mask < LANES / 2u; mask <<= 1u) {
        sum += subgroupShuffleXor(sum, mask);
    }
    int other = subgroupShuffleXor(sum, LANES / 2u);
    // The first four lanes write one word each of the block's tail; lanes 1 and 2 may belong to either half.
    int low = part < LANES / 2u ? sum : other;
    int high = part < LANES / 2u ? other : sum;
    float factor = part == 0u ? 1.0 : part == 1u ? float(low) : part == 2u ? float(high) : 0.0;
    if (live && part < 4u) {
        y_q8[at + 8u + part] = floatBitsToUint(d * factor);
    }
}
