// Third stage of a sampled row: finds the bins in which top-k and top-p end, draws among the tokens that are kept
// whatever the exact end is, and lists those that the last stage has to decide. One subgroup per group of slices and
// row.
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

layout(binding = 0) readonly restrict buffer Logits { uint logits[]; };
layout(binding = 1) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 2) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 3) restrict buffer Part { uint part[]; };

layout(push_constant) uniform Push {
    uint logits_at;
    uint samplers_at;
    uint rows_at;
    uint part_at;
    uint n;
    uint stride;
    uint part_stride;
    uint list; // tokens that fit in the list
} push;

#include "sampler_work.glsl"

// The bins of this lane, a run of neighbours, and what stands before them.
struct Run {
    uint at;
    uint first;
    uint end;
    uint count_before;
    uvec2 mass_before;
};

struct Crossing {
    uint bin;
    uint count_before;
    uvec2 mass_before;
};

uvec2 bin_mass(uint bins, uint bin) {
    return uvec2(part[bins + bin * BIN_WORDS + 1u], part[bins + bin * BIN_WORDS + 2u]);
}

// The first bin with which the running sum of tokens (or mass) reaches the target; NO_BIN when none does.
Crossing crossing(Run run, bool by_mass, uvec2 target) {
    uint bin = NO_BIN;
    uint count = run.count_before;
    uvec2 mass = run.mass_before;
    for (uint b = run.first; b < run.end; b++) {
        uint next_count = count + part[run.at + b * BIN_WORDS];
        uvec2 next_mass = add64(mass, bin_mass(run.at, b));
        bool before = at_least64(by_mass ? mass : uvec2(count, 0u), target);
        if (!before && at_least64(by_mass ? next_mass : uvec2(next_count, 0u), target)) {
            bin = b;
            break;
        }
        count = next_count;
        mass = next_mass;
    }
    // At most one lane has found it.
    uint owner = bin != NO_BIN ? 0xffffffffu : 0u;
    return Crossing(lanes_min(bin), lanes_or(count & owner),
                    uvec2(lanes_or(mass.x & owner), lanes_or(mass.y & owner)));
}

struct Ends {
    uint k_bin;
    uint first;
    uint last;
};

// Where top-k and top-p end. Top-p takes its share of the mass that top-k leaves, which is exactly known only in the
// last stage; the mass before the bin of top-k and the mass with it bound the bins in which top-p can end.
Ends find_ends(Sampler s, uint row, bool writer) {
    uint head = head_at(row);
    uint bins = bins_at(row);
    uint limit = part[head + HEAD_LIMIT];
    uint share = (limit + SG) / SG;
    Run run;
    run.at = bins;
    run.first = min(LANE * share, limit + 1u);
    run.end = min(run.first + share, limit + 1u);
    uint count = 0u;
    uvec2 mass = uvec2(0u);
    for (uint bin = run.first; bin < run.end; bin++) {
        count += part[bins + bin * BIN_WORDS];
        mass = add64(mass, bin_mass(bins, bin));
    }
    run.count_before = lanes_add_before(count);
    run.mass_before = subgroup_before64(mass);

    Crossing k = Crossing(NO_BIN, 0u, uvec2(0u));
    uvec2 least = subgroup_add64(mass);
    uvec2 most = least;
    if (s.top_k != 0u && s.top_k < push.n) {
        k = crossing(run, false, uvec2(s.top_k, 0u));
        // Fewer than top_k tokens can be chosen at all: none is removed.
        if (k.bin != NO_BIN) {
            least = k.mass_before;
            most = add64(least, bin_mass(bins, k.bin));
        }
    }
    Crossing p = Crossing(k.bin, 0u, uvec2(0u));
    uint last = k.bin;
    if (s.top_p != 0u) {
        p = crossing(run, true, share64(least, s.top_p));
        last = crossing(run, true, share64(most, s.top_p)).bin;
    }
    if (writer) {
        part[head + HEAD_K_BIN] = k.bin;
        part[head + HEAD_K_NEED] = s.top_k - k.count_before;
        part[head + HEAD_K_MASS] = least.x;
        part[head + HEAD_K_MASS + 1u] = least.y;
        part[head + HEAD_P_FIRST] = p.bin;
        part[head + HEAD_P_LAST] = last;
        part[head + HEAD_P_MASS] = p.mass_before.x;
        part[head + HEAD_P_MASS + 1u] = p.mass_before.y;
    }
    return Ends(k.bin, p.bin, last);
}

void main() {
    uint lane = LANE;
    uint group = gl_WorkGroupID.x;
    uint row = gl_WorkGroupID.y;
    StepRow step_row = rows[(push.rows_at >> 3u) + row];
    Sampler s = samplers[(push.samplers_at >> 4u) + step_row.sampler_index];
    if (s.inverse_temperature == 0.0) {
        return;
    }
    uint top = row_top(row);
    bool writer = group == 0u && lane == 0u;
    // Tokens in bins before `first` are kept, those from there to `last` and in `k_bin` are listed, others are dropped.
    Ends ends = Ends(NO_BIN, NO_BIN, NO_BIN);
    if (truncates(s) && top != KEY_NONE) {
        ends = find_ends(s, row, writer);
    } else if (writer) {
        part[head_at(row) + HEAD_K_BIN] = NO_BIN;
        part[head_at(row) + HEAD_P_FIRST] = NO_BIN;
    }
    uint reach = ends.k_bin != NO_BIN ? ends.k_bin : ends.last;
    float sure_reach = ends.first == NO_BIN ? s.min_p_distance : 3.0e38;

    uvec2 seed = uvec2(s.seed_low, s.seed_high);
    uint logits_at = push.logits_at + row * push.stride;
    uint best = KEY_NONE;
    uint best_id = NO_TOKEN;
    uint slice_end = min((group + 1u) * GROUP, slice_count());
    for (uint slice = group * GROUP; slice < slice_end; slice++) {
        uint slice_top = part[work_at(row) + slice * PARTIAL_WORDS];
        float slice_distance = distance_of(slice_top, top);
        if (slice_top == KEY_NONE || bin_of(slice_distance) > reach || slice_distance > sure_reach) {
            continue;
        }
        // Four ids per turn, 64 apart, share one call of the generator.
        for (uint turn = lane; turn < SLICE / 4u; turn += SG) {
            uint id = slice * SLICE + (turn >> 6u) * 256u + (turn & 63u);
            float distances[4];
            uint sure = 0u;
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint i = id + 64u * j;
                uint key = i < push.n ? key_of(logits[logits_at + i]) : KEY_NONE;
                distances[j] = distance_of(key, top);
                uint bin = bin_of(distances[j]);
                if (key == KEY_NONE) {
                    continue;
                }
                if (bin < ends.first) {
                    sure |= distances[j] <= s.min_p_distance ? 1u << j : 0u;
                } else if (bin <= ends.last || bin == ends.k_bin) {
                    uint slot = atomicAdd(part[head_at(row) + HEAD_LISTED], 1u);
                    if (slot < push.list) {
                        part[list_at(row) + slot * 2u] = key;
                        part[list_at(row) + slot * 2u + 1u] = i;
                    }
                }
            }
            if (sure != 0u) {
                uvec4 words = philox_tokens(seed, step_row.position + 1u, id, PURPOSE_DRAW);
                [[unroll]] for (uint j = 0u; j < 4u; j++) {
                    if ((sure & (1u << j)) != 0u) {
                        float score = score_of(distances[j], s.inverse_temperature, words[j]);
                        take_better(best, best_id, key_of(floatBitsToUint(score)), id + 64u * j);
                    }
                }
            }
        }
    }
    subgroup_best(best, best_id);
    if (lane == 0u) {
        part[draws_at(row) + group * 2u] = best;
        part[draws_at(row) + group * 2u + 1u] = best_id;
    }
}
