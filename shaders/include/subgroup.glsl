// Reductions over a subgroup of SG lanes as fixed trees, so the same lanes give the same bits on every
// driver.

#include "exchange.glsl"

// Sum of the lanes whose index differs only in the bits from `low` (a power of two) up to below `high`.
float subgroup_sum_between(float value, uint low, uint high) {
    [[unroll]] for (uint mask = low; mask < high; mask <<= 1u) {
        precise float sum = value + subgroupShuffleXor(value, mask);
        value = sum;
    }
    return value;
}

float subgroup_sum(float value) {
    return subgroup_sum_between(value, 1u, SG);
}

float subgroup_max(float value) {
    [[unroll]] for (uint mask = 1u; mask < SG; mask <<= 1u) {
        value = max(value, subgroupShuffleXor(value, mask));
    }
    return value;
}
