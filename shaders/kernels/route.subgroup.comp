// The experts of a row and their weights, one subgroup per row; of a step of one row also the tiles for `linear`. Ties go to
// the lowest expert; a score that is no number is below all others, and makes the weights no numbers.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint GATING = 0u; // 0 softmax, 1 sigmoid, 2 softmax of those chosen
layout(constant_id = 3) const uint BIAS = 0u; // 1 adds a bias for the choice alone
layout(constant_id = 4) const uint EXPERTS = 128u;

layout(binding = 0) readonly restrict buffer Logits { float logits[]; };
layout(binding = 1) readonly restrict buffer Bias { float bias[]; };
layout(binding = 2) writeonly restrict buffer Ids { uint ids[]; };
layout(binding = 3) writeonly restrict buffer Weights { float weights[]; };
layout(binding = 4) writeonly restrict buffer Tiles { uvec4 tiles[]; };
layout(binding = 5) writeonly restrict buffer Order { uint order[]; };

layout(push_constant) uniform Push {
    uint logits_at;
    uint bias_at;
    uint ids_at;
    uint weights_at;
    uint tiles_at;
    uint order_at;
    uint rows;
    // Experts of a row.
    uint used;
    // Groups of neighbouring experts, at most 32, and how many of them may be used.
    uint groups;
    uint groups_used;
    // 1 divides the weights by their sum.
    uint normalise;
    float scale;
} push;

#include "subgroup.glsl"

const float LOWEST = -3.0e38;
// Below every score that can be chosen.
const float TAKEN = -3.3e38;

// Probabilities, and what experts are chosen by. Expert e is touched by lane e % SG alone.
shared float share[EXPERTS];
shared float score[EXPERTS];
shared float group_score[32];

float number(float x) {
    bool is_number = (floatBitsToUint(x) & 0x7fffffffu) <= 0x7f800000u;
    return is_number ? max(x, LOWEST) : LOWEST;
}

// Index of the largest of the lanes' scores, the lowest of equal ones.
uint lane_best(float best, uint index) {
    [[unroll]] for (uint mask = 1u; mask < SG; mask <<= 1u) {
        float other = subgroupShuffleXor(best, mask);
        uint other_index = subgroupShuffleXor(index, mask);
        if (other > best || other == best && other_index < index) {
            best = other;
            index = other_index;
        }
    }
    return index;
}

uint best_expert(uint lane) {
    float best = TAKEN;
    uint index = EXPERTS;
    [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
        if (score[e] > best) {
            best = score[e];
            index = e;
        }
    }
    return lane_best(best, index);
}

// Only the groups with the largest sums of two scores stay.
void choose_groups(uint lane) {
    uint size = EXPERTS / push.groups;
    [[dont_unroll]] for (uint g = 0u; g < push.groups; g++) {
        float first = LOWEST;
        float second = LOWEST;
        [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
            if (e / size == g) {
                second = max(second, min(first, score[e]));
                first = max(first, score[e]);
            }
        }
        [[unroll]] for (uint mask = 1u; mask < SG; mask <<= 1u) {
            float other_first = subgroupShuffleXor(first, mask);
            float other_second = subgroupShuffleXor(second, mask);
            second = max(min(first, other_first), max(second, other_second));
            first = max(first, other_first);
        }
        if (lane == g % SG) {
            group_score[g] = max(first + (size > 1u ? second : 0.0), LOWEST);
        }
    }
    uint kept = 0u;
    [[dont_unroll]] for (uint i = 0u; i < push.groups_used; i++) {
        float best = TAKEN;
        uint index = 0u;
        [[dont_unroll]] for (uint g = lane; g < push.groups; g += SG) {
            if (group_score[g] > best) {
                best = group_score[g];
                index = g;
            }
        }
        uint group = lane_best(best, index);
        kept |= 1u << group;
        if (lane == group % SG) {
            group_score[group] = TAKEN;
        }
    }
    [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
        if ((kept >> e / size & 1u) == 0u) {
            score[e] = LOWEST;
        }
    }
}

void main() {
    uint row = gl_WorkGroupID.x;
    if (row >= push.rows) {
        return;
    }
    uint lane = LANE;
    uint at = push.logits_at + row * EXPERTS;

    float top = LOWEST;
    [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
        top = max(top, logits[at + e]);
    }
    top = subgroup_max(top);
    float sum = 0.0;
    [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
        precise float below = logits[at + e] - top;
        float power = exp(below);
        share[e] = power;
        sum += power;
    }
    sum = subgroup_sum(sum);
    [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
        float logit = logits[at + e];
        if (GATING == 0u) {
            precise float quotient = share[e] / sum;
            share[e] = quotient;
        } else if (GATING == 1u) {
            precise float power = exp(-abs(logit));
            precise float quotient = (logit < 0.0 ? power : 1.0) / (1.0 + power);
            share[e] = quotient;
        } else {
            share[e] = logit;
        }
        float chosen_by = share[e];
        if (BIAS == 1u) {
            chosen_by += bias[push.bias_at + e];
        }
        score[e] = number(chosen_by);
    }
    if (push.groups > 1u) {
        choose_groups(lane);
    }

    // Lane i keeps what the slots i, i + SG, … have.
    float total = 0.0;
    float highest = 0.0;
    uint out_at = row * push.used;
    [[dont_unroll]] for (uint slot = 0u; slot < push.used; slot++) {
        uint expert = min(best_expert(lane), EXPERTS - 1u);
        bool mine = lane == expert % SG;
        float weight = mine ? share[expert] : 0.0;
        if (mine) {
            score[expert] = TAKEN;
        }
        weight = subgroupShuffle(weight, expert % SG);
        if (GATING == 2u) {
            highest = slot == 0u ? weight : highest;
            precise float below = weight - highest;
            weight = exp(below);
        }
        total += weight;
        if (lane == 0u) {
            ids[push.ids_at + out_at + slot] = expert;
            if (push.rows == 1u) {
                tiles[(push.tiles_at >> 2u) + slot] = uvec4(expert, slot, 1u, 0u);
                order[push.order_at + slot] = slot;
            }
        }
        if (lane == slot % SG) {
            group_score[slot] = weight;
        }
    }
    // The smallest normal f16 keeps the quotient finite.
    float divisor = GATING == 2u ? total : push.normalise == 1u ? max(total, 6.103515625e-5) : 1.0;
    [[dont_unroll]] for (uint slot = lane; slot < push.used; slot += SG) {
        precise float weight = group_score[slot] / divisor;
        weights[push.weights_at + out_at + slot] = weight * push.scale;
    }
}
