// Integer sums, minima and maxima over the lanes of a subgroup of SG lanes. Axis SUMS: the device's own operations, or
// exchanges where it has none; integers are the same either way.

#include "exchange.glsl"

#if defined(SUMS_SHUFFLE) || defined(WAY_SAFE)
#define LANES_TREE(name, joined)                                  \
    uint name(uint a) {                                           \
        [[unroll]] for (uint mask = 1u; mask < SG; mask <<= 1u) { \
            uint b = subgroupShuffleXor(a, mask);                 \
            a = joined;                                           \
        }                                                         \
        return a;                                                 \
    }

LANES_TREE(lanes_add, a + b)
LANES_TREE(lanes_min, min(a, b))
LANES_TREE(lanes_max, max(a, b))
LANES_TREE(lanes_or, a | b)

// Sum over the lanes before this one.
uint lanes_add_before(uint value) {
    uint lane = LANE;
    uint sum = value;
    [[unroll]] for (uint step = 1u; step < SG; step <<= 1u) {
        uint other = subgroupShuffle(sum, (lane - step) % SG);
        sum += lane >= step ? other : 0u;
    }
    return sum - value;
}
#else
uint lanes_add(uint value) {
    return subgroupAdd(value);
}

uint lanes_min(uint value) {
    return subgroupMin(value);
}

uint lanes_max(uint value) {
    return subgroupMax(value);
}

uint lanes_or(uint value) {
    return subgroupOr(value);
}

uint lanes_add_before(uint value) {
    return subgroupExclusiveAdd(value);
}
#endif
