// Draws a token among those that truncation left in the logits. With OFFERS a row that a draft follows first judges it:
// it is accepted with the quotient of the target's and the drafter's probability, else the token is drawn from where the
// target's probability exceeds the drafter's (Leviathan et al. 2023), so that tokens are distributed as the target's.
// One subgroup per row.
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
layout(constant_id = 2) const uint OFFERS = 0u;

#include "step.glsl"
#include "sampler.glsl"
#include "lanes.glsl"
#include "sampler_sums.glsl"

layout(binding = 0) readonly restrict buffer Logits { uint logits[]; };
layout(binding = 1) readonly restrict buffer Part { uint part[]; };
layout(binding = 2) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 3) restrict buffer Rows { StepRow rows[]; };
layout(binding = 4) readonly restrict buffer Offers { uint offers[]; };   // by row: what its draft was drawn from
layout(binding = 5) writeonly restrict buffer Results { uint results[]; }; // token, ln p, position, segment

layout(push_constant) uniform Push {
    uint logits_at;
    uint part_at;
    uint samplers_at;
    uint rows_at;
    uint offers_at;
    uint results_at;
    uint n;
    uint stride;
    uint part_stride;
    uint row_count;
    uint offer_n;      // tokens the drafter knows
    uint offer_stride;
    uint purpose;      // of the random words
} push;

#include "sampler_work.glsl"
#include "sampler_ln.glsl"

const uint RESULT_WORDS = 4u;

// Integer weight of a token at the sampler's temperature.
uint weight_of(uint key, uint top_key, float inverse_temperature) {
    precise float distance = min(distance_of(key, top_key), 1.0e30) * inverse_temperature;
    return key == KEY_NONE ? 0u : mass_of(distance);
}

float float64(uvec2 v) {
    precise float sum = float(v.x) * 2.32830644e-10 + float(v.y);
    return sum;
}

uint offer_key(uint at, uint id) {
    return id < push.offer_n ? key_of(offers[at + id]) : KEY_NONE;
}

uint plain(Sampler s, uint at, uint position, uint top) {
    uint best = KEY_NONE;
    uint best_id = NO_TOKEN;
    for (uint i = LANE; i < push.n; i += SG) {
        uint key = key_of(logits[at + i]);
        if (key != KEY_NONE) {
            uint word = philox_token(uvec2(s.seed_low, s.seed_high), position, i, push.purpose);
            float score = score_of(distance_of(key, top), s.inverse_temperature, word);
            take_better(best, best_id, key_of(floatBitsToUint(score)), i);
        }
    }
    subgroup_best(best, best_id);
    return best_id;
}

uint judged(Sampler s, uint at, uint offer_at, uint position, uint top, uint draft) {
    uvec2 seed = uvec2(s.seed_low, s.seed_high);
    uint offer_top = KEY_NONE;
    for (uint i = LANE; i < push.offer_n; i += SG) {
        offer_top = max(offer_top, offer_key(offer_at, i));
    }
    offer_top = lanes_max(offer_top);
    if (offer_top == KEY_NONE) {
        return plain(s, at, position, top);
    }
    uvec2 own = uvec2(0u);
    uvec2 offered = uvec2(0u);
    for (uint i = LANE; i < push.n; i += SG) {
        own = add64(own, uvec2(weight_of(key_of(logits[at + i]), top, s.inverse_temperature), 0u));
        offered = add64(offered, uvec2(weight_of(offer_key(offer_at, i), offer_top, s.inverse_temperature), 0u));
    }
    float own_mass = float64(subgroup_add64(own));
    float offered_mass = float64(subgroup_add64(offered));

    // Probabilities with a common denominator, so that nothing is divided.
    precise float target = float(weight_of(key_of(logits[at + draft]), top, s.inverse_temperature)) * offered_mass;
    precise float drafter =
        float(weight_of(offer_key(offer_at, draft), offer_top, s.inverse_temperature)) * own_mass;
    precise float u = (float(philox(uvec4(0u, position, PURPOSE_ACCEPT, 0u), seed).x) + 0.5) * 2.32830644e-10;
    precise float bar = u * drafter;
    if (bar < target) {
        return draft;
    }
    uint best = KEY_NONE;
    uint best_id = NO_TOKEN;
    for (uint i = LANE; i < push.n; i += SG) {
        precise float p = float(weight_of(key_of(logits[at + i]), top, s.inverse_temperature)) * offered_mass;
        precise float q = float(weight_of(offer_key(offer_at, i), offer_top, s.inverse_temperature)) * own_mass;
        precise float excess = p - q;
        if (excess > 0.0) {
            precise float score = gumbel_of(philox_token(seed, position, i, PURPOSE_REST)) + ln_of(excess);
            take_better(best, best_id, key_of(floatBitsToUint(score)), i);
        }
    }
    subgroup_best(best, best_id);
    // Without a remainder the distributions are the same.
    return best_id == NO_TOKEN ? draft : best_id;
}

void main() {
    uint row = gl_WorkGroupID.y;
    uint index = (push.rows_at >> 3u) + row;
    StepRow step_row = rows[index];
    Sampler s = samplers[(push.samplers_at >> 4u) + step_row.sampler_index];
    uint at = push.logits_at + row * push.stride;

    uint top = KEY_NONE;
    uint token = NO_TOKEN;
    for (uint slice = LANE; slice < slice_count(); slice += SG) {
        uint slice_at = work_at(row) + slice * PARTIAL_WORDS;
        take_better(top, token, part[slice_at], part[slice_at + 1u]);
    }
    subgroup_best(top, token);
    if (s.inverse_temperature != 0.0 && top != KEY_NONE) {
        uint draft = NO_TOKEN;
        if (OFFERS != 0u && row + 1u < push.row_count) {
            StepRow next = rows[index + 1u];
            bool follows = next.segment == step_row.segment && (next.flags & ROW_IDLE) == 0u;
            draft = follows ? next.token : NO_TOKEN;
        }
        token = draft < push.n
                    ? judged(s, at, push.offers_at + row * push.offer_stride, step_row.position + 1u, top, draft)
                    : plain(s, at, step_row.position + 1u, top);
    }
    precise float ln_p = 0.0;
    if (token != NO_TOKEN) {
        ln_p = -distance_of(key_of(logits[at + token]), top);
        ln_p = ln_p - ln_mass(row, top);
    }

    if (LANE == 0u) {
        uint result = push.results_at + step_row.out_index * RESULT_WORDS;
        results[result] = token;
        results[result + 1u] = floatBitsToUint(ln_p);
        results[result + 2u] = step_row.position + 1u;
        results[result + 3u] = step_row.segment;
        if ((step_row.flags & ROW_ADVANCE) != 0u && token != NO_TOKEN) {
            rows[index].token = token;
            rows[index].position = step_row.position + 1u;
        }
    }
}
