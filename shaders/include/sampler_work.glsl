// The working record of a row in part[]: partial results of `argmax`, a header, a histogram over distances from the
// largest logit, the best draw of each group, and the tokens the histogram leaves undecided.
// The kernel has declared part[] and the push block (part_at, part_stride, n).

// Header words.
const uint HEAD_LIMIT = 0u;      // last bin the histogram counted
const uint HEAD_LISTED = 1u;     // tokens in the list; more than fit means that the list is not to be used
const uint HEAD_K_BIN = 2u;      // bin in which top-k ends, NO_BIN without top-k
const uint HEAD_K_NEED = 3u;     // tokens of that bin that top-k keeps
const uint HEAD_K_MASS = 4u;     // two words: mass of the bins before it, or of everything without top-k
const uint HEAD_P_FIRST = 6u;    // bins in which top-p may end
const uint HEAD_P_LAST = 7u;
const uint HEAD_P_MASS = 8u;     // two words: mass of the bins before HEAD_P_FIRST
const uint HEAD_WORDS = 16u;

const uint BINS = 1024u;
// Words of a bin: tokens, mass (two words).
const uint BIN_WORDS = 3u;
const uint NO_BIN = 0xffffffffu;

// Bins are monotone in the distance: 1/16 wide up to 16, then twice as wide with each doubling of distance + 16.
uint bin_of(float distance) {
    precise float shifted = distance + 16.0;
    return min((floatBitsToUint(shifted) - 0x41800000u) >> 15u, BINS - 1u);
}

uint slice_count() {
    return (push.n + SLICE - 1u) / SLICE;
}

uint group_count() {
    return (slice_count() + GROUP - 1u) / GROUP;
}

uint work_at(uint row) {
    return push.part_at + row * push.part_stride;
}

uint head_at(uint row) {
    return work_at(row) + slice_count() * PARTIAL_WORDS;
}

uint bins_at(uint row) {
    return head_at(row) + HEAD_WORDS;
}

// Per group: largest score as a key, id.
uint draws_at(uint row) {
    return bins_at(row) + BINS * BIN_WORDS;
}

// Per token: key, id.
uint list_at(uint row) {
    return draws_at(row) + group_count() * 2u;
}

// True when top-k or top-p can remove a token.
bool truncates(Sampler s) {
    return (s.top_k != 0u && s.top_k < push.n) || s.top_p != 0u;
}

// The row's largest key.
uint row_top(uint row) {
    uint top = KEY_NONE;
    for (uint slice = LANE; slice < slice_count(); slice += SG) {
        top = max(top, part[work_at(row) + slice * PARTIAL_WORDS]);
    }
    return lanes_max(top);
}
