// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): random words as a function of
// what they are for, never of the order in which they are drawn.

uvec4 philox(uvec4 counter, uvec2 key) {
    [[unroll]] for (uint i = 0u; i < 10u; i++) {
        uint high0, low0, high1, low1;
        umulExtended(0xD2511F53u, counter.x, high0, low0);
        umulExtended(0xCD9E8D57u, counter.z, high1, low1);
        counter = uvec4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}

// What a random word is for.
const uint PURPOSE_DRAW = 0u;   // a token of the target, and of a drafter that shall draw the same
const uint PURPOSE_DRAFT = 1u;  // a token of a drafter on its own
const uint PURPOSE_ACCEPT = 2u; // whether a draft is accepted
const uint PURPOSE_REST = 3u;   // the token in place of one that is not

// Words of the token ids id, id + 64, id + 128 and id + 192, where id has bits 6 and 7 clear: one call serves a lane
// that reads four ids, each of them next to the ids of its neighbour lanes.
uvec4 philox_tokens(uvec2 seed, uint position, uint id, uint purpose) {
    return philox(uvec4((id >> 8u) * 64u + (id & 63u), position, purpose, 0u), seed);
}

// The word of one token id.
uint philox_token(uvec2 seed, uint position, uint id, uint purpose) {
    return philox_tokens(seed, position, id & ~192u, purpose)[(id >> 6u) & 3u];
}
