// Sum over `lanes` neighbouring lanes (a power of two), in all of them: a fixed tree, the same bits on every driver.

#include "exchange.glsl"

float reduce_lanes(float value, uint lanes) {
    precise float sum = value;
    [[unroll]] for (uint mask = 1u; mask < lanes; mask <<= 1u) {
        sum = sum + subgroupShuffleXor(sum, mask);
    }
    return sum;
}
