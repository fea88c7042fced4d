// Last stage of every choice of a token: the best of what the stages before have found, its logarithmic probability,
// and the step row moved on to it. Where top-k or top-p end within a bin it finds the exact end by bisection, first
// over keys, then over the ids that share the last key. One subgroup per row. (llvmpipe before Mesa 23 ends all loops
// of an invocation after 65535 iterations: there a nearly flat row of a large vocabulary is cut at a wrong place.)
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
layout(constant_id = 2) const uint SAMPLED = 1u; // 0: all rows are greedy and only `argmax` came before

#include "step.glsl"
#include "sampler.glsl"
#include "lanes.glsl"
#include "sampler_sums.glsl"

layout(binding = 0) readonly restrict buffer Logits { uint logits[]; };
layout(binding = 1) readonly restrict buffer Part { uint part[]; };
layout(binding = 2) readonly restrict buffer Samplers { Sampler samplers[]; };
layout(binding = 3) restrict buffer Rows { StepRow rows[]; };
layout(binding = 4) writeonly restrict buffer Results { uint results[]; }; // token, ln p, position, segment

layout(push_constant) uniform Push {
    uint logits_at;
    uint part_at;
    uint samplers_at;
    uint rows_at;
    uint results_at;
    uint n;
    uint stride;
    uint part_stride;
    uint list;
} push;

#include "sampler_work.glsl"
#include "sampler_ln.glsl"

const uint RESULT_WORDS = 4u;

// Where a row is cut off: larger keys are kept, and `key` itself up to the id.
struct Cut {
    uint key;
    uint id;
};

const Cut NO_CUT = Cut(KEY_NONE, NO_TOKEN);

bool keeps(Cut cut, uint key, uint id) {
    return key > cut.key || (key == cut.key && id <= cut.id);
}

// The undecided tokens of a row: the list, or, when they do not fit in it, the whole row.
struct Source {
    bool listed;
    uint count;
    uint at;
    uint top;
};

// Tokens of a source in a range of bins that a cut keeps.
struct Range {
    uint first;
    uint last;
    Cut cut;
};

bool fetch(Source source, Range range, uint i, out uint key, out uint id, out float distance) {
    id = source.listed ? part[source.at + 2u * i + 1u] : i;
    key = source.listed ? part[source.at + 2u * i] : key_of(logits[source.at + i]);
    distance = distance_of(key, source.top);
    uint bin = bin_of(distance);
    return key != KEY_NONE && bin >= range.first && bin <= range.last && keeps(range.cut, key, id);
}

// Tokens (or mass) of a range down to a cut.
uvec2 sum_to(Source source, Range range, bool by_mass, Cut cut) {
    uvec2 sum = uvec2(0u);
    uint key, id;
    float distance;
    for (uint i = LANE; i < source.count; i += SG) {
        if (fetch(source, range, i, key, id, distance) && keeps(cut, key, id)) {
            sum = add64(sum, uvec2(by_mass ? mass_of(distance) : 1u, 0u));
        }
    }
    return subgroup_add64(sum);
}

// The highest cut down to which a range has the wanted tokens (or mass): first the key, then the id among tokens that
// have this key. Ids are complemented, so that both searches look for the largest value that is enough.
Cut find_cut(Source source, Range range, bool by_mass, uvec2 want) {
    Cut cut = NO_CUT;
    for (uint turn = 0u; turn < 2u; ++turn) {
        bool by_id = turn == 1u;
        uint key, id;
        float distance;
        uint low = 0xffffffffu;
        uint high = 0u;
        for (uint i = LANE; i < source.count; i += SG) {
            if (fetch(source, range, i, key, id, distance) && (!by_id || key == cut.key)) {
                low = min(low, by_id ? ~id : key);
                high = max(high, by_id ? ~id : key);
            }
        }
        low = lanes_min(low);
        high = lanes_max(high);
        while (low < high) {
            uint middle = high - (high - low) / 2u;
            Cut tried = by_id ? Cut(cut.key, ~middle) : Cut(middle, NO_TOKEN);
            if (at_least64(sum_to(source, range, by_mass, tried), want)) {
                low = middle;
            } else {
                high = middle - 1u;
            }
        }
        cut = by_id ? Cut(cut.key, ~low) : Cut(low, NO_TOKEN);
    }
    return cut;
}

uvec2 head64(uint head, uint word) {
    return uvec2(part[head + word], part[head + word + 1u]);
}

// The id a sampler with a temperature chooses.
uint draw(Sampler s, uint row, uint position, uint top) {
    uint best = KEY_NONE;
    uint best_id = NO_TOKEN;
    for (uint group = LANE; group < group_count(); group += SG) {
        take_better(best, best_id, part[draws_at(row) + group * 2u], part[draws_at(row) + group * 2u + 1u]);
    }
    uint head = head_at(row);
    Range range = Range(part[head + HEAD_P_FIRST], part[head + HEAD_P_LAST], NO_CUT);
    if (range.first != NO_BIN) {
        uint listed = part[head + HEAD_LISTED];
        Source source = Source(true, listed, list_at(row), top);
        if (listed > push.list) {
            source = Source(false, push.n, push.logits_at + row * push.stride, top);
        }
        uvec2 mass = head64(head, HEAD_K_MASS);
        uint k_bin = part[head + HEAD_K_BIN];
        if (k_bin != NO_BIN) {
            Range end = Range(k_bin, k_bin, NO_CUT);
            range.cut = find_cut(source, end, false, uvec2(part[head + HEAD_K_NEED], 0u));
            mass = add64(mass, sum_to(source, end, true, range.cut));
        }
        if (s.top_p != 0u) {
            uvec2 want = sub64(share64(mass, s.top_p), head64(head, HEAD_P_MASS));
            range.cut = find_cut(source, range, true, want);
        }
        uint key, id;
        float distance;
        for (uint i = LANE; i < source.count; i += SG) {
            if (fetch(source, range, i, key, id, distance) && distance <= s.min_p_distance) {
                uint word = philox_token(uvec2(s.seed_low, s.seed_high), position, id, PURPOSE_DRAW);
                float score = score_of(distance, s.inverse_temperature, word);
                take_better(best, best_id, key_of(floatBitsToUint(score)), id);
            }
        }
    }
    subgroup_best(best, best_id);
    return best_id;
}

void main() {
    uint row = gl_WorkGroupID.y;
    uint index = (push.rows_at >> 3u) + row;
    StepRow step_row = rows[index];
    Sampler s = samplers[(push.samplers_at >> 4u) + step_row.sampler_index];

    uint top = KEY_NONE;
    uint token = NO_TOKEN;
    for (uint slice = LANE; slice < slice_count(); slice += SG) {
        uint at = work_at(row) + slice * PARTIAL_WORDS;
        take_better(top, token, part[at], part[at + 1u]);
    }
    subgroup_best(top, token);
    if (SAMPLED != 0u && s.inverse_temperature != 0.0 && top != KEY_NONE) {
        token = draw(s, row, step_row.position + 1u, top);
    }
    precise float ln_p = 0.0;
    if (token != NO_TOKEN) {
        ln_p = -distance_of(key_of(logits[push.logits_at + row * push.stride + token]), top);
        ln_p = ln_p - ln_mass(row, top);
    }

    if (LANE == 0u) {
        uint at = push.results_at + step_row.out_index * RESULT_WORDS;
        results[at] = token;
        results[at + 1u] = floatBitsToUint(ln_p);
        results[at + 2u] = step_row.position + 1u;
        results[at + 3u] = step_row.segment;
        if ((step_row.flags & ROW_ADVANCE) != 0u && token != NO_TOKEN) {
            rows[index].token = token;
            rows[index].position = step_row.position + 1u;
        }
    }
}
