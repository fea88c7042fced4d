// Takes the tokens that top-k, typical-p, top-p and min-p remove out of the logits, in place. Where each of them ends is
// found digit by digit, with integer sums, whose order does not matter. One subgroup per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#ifdef SUMS_SHUFFLE
#extension GL_KHR_shader_subgroup_shuffle : require
#else
#extension GL_KHR_shader_subgroup_arithmetic : require
#endif
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;

#include "step.glsl"
#include "sampler.glsl"
#include "lanes.glsl"
#include "sampler_sums.glsl"

layout(binding = 0) restrict buffer Logits { uint logits[]; };
layout(binding = 1) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 2) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 3) readonly restrict buffer Part { uint part[]; };

layout(push_constant) uniform Push {
    uint logits_at;
    uint samplers_at;
    uint rows_at;
    uint part_at;
    uint n;
    uint stride;
    uint part_stride;
} push;

#include "sampler_work.glsl"

const uint DIGITS = 256u;
shared uint bins[DIGITS * BIN_WORDS];

// Tokens of smaller ranks are kept, and of equal ones those up to an id.
struct Cut {
    uint rank;
    uint id;
};

const Cut NO_CUT = Cut(0xffffffffu, 0xffffffffu);

// What has been decided of the row so far.
uint top;
bool typical = false;
uint mean = 0u;
Cut by_top = NO_CUT;
Cut by_typical = NO_CUT;
Cut by_share = NO_CUT;

struct Token {
    bool left;
    uint key;
    uint mass;
    uint far;       // distance from the largest logit
    uint deviation; // of that distance from its mean
};

bool keeps(Cut cut, uint rank, uint id) {
    return rank < cut.rank || (rank == cut.rank && id <= cut.id);
}

Token token_of(uint at, uint id) {
    Token t;
    t.key = key_of(logits[at + id]);
    float distance = distance_of(t.key, top);
    t.mass = mass_of(distance);
    t.far = far_of(distance);
    t.deviation = max(t.far, mean) - min(t.far, mean);
    t.left = t.key != KEY_NONE && keeps(by_top, ~t.key, id) && keeps(by_share, ~t.key, id);
    t.left = t.left && (!typical || (t.mass != 0u && keeps(by_typical, t.deviation, id)));
    return t;
}

// The workgroup is one subgroup, so this is all it takes to see what other lanes wrote to shared memory.
void settle() {
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

// The cut with which what is left counts (or weighs) at least `want`: in rising order of deviations or falling order of
// logits, equal ones in rising order of ids.
Cut reach(uint at, bool by_deviation, bool by_mass, uvec2 want) {
    Cut cut = NO_CUT;
    for (uint turn = 0u; turn < 2u; turn++) {
        uint prefix = 0u;
        uint count = 0u;
        for (uint digit = 0u; digit < 4u; digit++) {
            uint shift = 24u - 8u * digit;
            for (uint i = LANE; i < DIGITS * BIN_WORDS; i += SG) {
                bins[i] = 0u;
            }
            settle();
            for (uint i = LANE; i < push.n; i += SG) {
                Token t = token_of(at, i);
                uint rank = by_deviation ? t.deviation : ~t.key;
                bool counts = t.left && (turn == 0u || rank == cut.rank);
                rank = turn == 0u ? rank : i;
                if (counts && (digit == 0u || (rank >> (shift + 8u)) == (prefix >> (shift + 8u)))) {
                    uint bin = ((rank >> shift) & (DIGITS - 1u)) * BIN_WORDS;
                    atomicAdd(bins[bin], 1u);
                    uint old = atomicAdd(bins[bin + 1u], t.mass);
                    if (old + t.mass < old) {
                        atomicAdd(bins[bin + 2u], 1u);
                    }
                }
            }
            settle();
            uint bin = 0u;
            for (; bin < DIGITS - 1u; bin++) {
                uint first = bin * BIN_WORDS;
                uvec2 next = by_mass ? uvec2(bins[first + 1u], bins[first + 2u]) : uvec2(bins[first], 0u);
                if (at_least64(next, want)) {
                    break;
                }
                want = sub64(want, next);
            }
            count = bins[bin * BIN_WORDS];
            prefix |= bin << shift;
            settle();
        }
        cut = turn == 0u ? Cut(prefix, NO_TOKEN) : Cut(cut.rank, prefix);
        if (count <= 1u) {
            break;
        }
    }
    return cut;
}

// a / b, rounded down, for quotients below 2^32.
uint quotient64(uvec2 a, uvec2 b) {
    uvec2 rest = uvec2(0u);
    uint quotient = 0u;
    for (uint i = 0u; i < 64u; i++) {
        uint bit = 63u - i;
        rest = uvec2((rest.x << 1u) | ((bit >= 32u ? a.y >> (bit - 32u) : a.x >> bit) & 1u),
                     (rest.y << 1u) | (rest.x >> 31u));
        quotient <<= 1u;
        if (at_least64(rest, b)) {
            rest = sub64(rest, b);
            quotient |= 1u;
        }
    }
    return quotient;
}

// Sums over what is left: mass, or mass times distance.
uvec2 sum_left(uint at, bool times_far) {
    uvec2 sum = uvec2(0u);
    for (uint i = LANE; i < push.n; i += SG) {
        Token t = token_of(at, i);
        if (t.left) {
            uint high, low;
            umulExtended(t.mass, times_far ? t.far : 1u, high, low);
            sum = add64(sum, uvec2(low, high));
        }
    }
    return subgroup_add64(sum);
}

void main() {
    uint row = gl_WorkGroupID.y;
    Sampler s = samplers[(push.samplers_at >> 4u) + rows[(push.rows_at >> 3u) + row].sampler_index];
    top = row_top(row);
    if (s.inverse_temperature == 0.0 || top == KEY_NONE) {
        return;
    }
    uint at = push.logits_at + row * push.stride;
    if (s.top_k != 0u && s.top_k < push.n) {
        by_top = reach(at, false, false, uvec2(s.top_k, 0u));
    }
    if (s.typical_p != 0u) {
        typical = true;
        uvec2 mass = sum_left(at, false);
        mean = quotient64(sum_left(at, true), mass);
        by_typical = reach(at, true, true, share64(mass, s.typical_p));
    }
    if (s.top_p != 0u) {
        by_share = reach(at, false, true, share64(sum_left(at, false), s.top_p));
    }
    uint first = KEY_NONE;
    for (uint i = LANE; i < push.n; i += SG) {
        Token t = token_of(at, i);
        first = max(first, t.left ? t.key : KEY_NONE);
    }
    first = lanes_max(first);
    for (uint i = LANE; i < push.n; i += SG) {
        Token t = token_of(at, i);
        if (!t.left || distance_of(t.key, first) > s.min_p_distance) {
            logits[at + i] = MINUS_INFINITY;
        }
    }
}
