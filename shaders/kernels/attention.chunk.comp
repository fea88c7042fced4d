// Attention for GPUs. D_SPLIT lanes share a key or value, SG / D_SPLIT of them are read at once, neighbouring lanes from
// neighbouring memory; queries and sums stay in registers. D_SPLIT is a power of two, at most SG, and divides HEAD / 8
// and HEAD_V / 8.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require

layout(constant_id = 7) const uint D_SPLIT = 8u;

#include "attention.glsl"

// Keys read at once.
const uint KEYS = SG / D_SPLIT;
// vec4s of a key and of a value that one lane handles, and how many of them one load of it brings: 16 elements of a
// quantised type where that is possible, so that their scale is loaded once.
const uint K_VECS = HEAD / 4u / D_SPLIT;
const uint V_VECS = HEAD_V / 4u / D_SPLIT;
const uint K_STEP = K_TYPE < KV_Q8_0 ? 2u : 4u - K_VECS % 4u;
const uint V_STEP = V_TYPE < KV_Q8_0 ? 2u : 4u - V_VECS % 4u;

// First element of vec4 i of a lane's share: the lanes that share a key read neighbouring memory.
uint share_element(uint i, uint vecs_per_load, uint split) {
    return ((i / vecs_per_load) * D_SPLIT + split) * 4u * vecs_per_load + i % vecs_per_load * 4u;
}

void main() {
    uint left = pairs_that_see();
    uint lane = gl_SubgroupInvocationID;
    uint split = lane % D_SPLIT;
    uint group = lane / D_SPLIT;
    [[dont_unroll]] while (left != 0u) {
        Shared s = pairs_of_a_block(left);
        uint first = s.some.from / SG * SG;
        uint k_tile = kv_tile(K_TYPE, s.some.block, push.n_kv, gl_WorkGroupID.y, HEAD);
        uint v_tile = value_tile(s.some.block);

        vec4 query[PAIRS][K_VECS];
        float top[PAIRS];
        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
            top[p] = LOWEST;
            [[unroll]] for (uint i = 0u; i < K_VECS; i++) {
                uint at = pair_query(p) + share_element(i, K_STEP, split);
                query[p][i] = vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
            }
        }
        // SG keys at a time, in D_SPLIT turns; the lane whose split equals the turn keeps its group's score.
        [[dont_unroll]] for (uint base = first; base <= s.some.to; base += SG) {
            float mine[PAIRS];
            [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                mine[p] = LOWEST;
            }
            [[dont_unroll]] for (uint turn = 0u; turn < D_SPLIT; turn++) {
                uint slot = base + turn * KEYS + group;
                uint read = clamp(slot, s.some.from, s.some.to);
                vec4 products[PAIRS];
                [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                    products[p] = vec4(0.0);
                }
                [[unroll]] for (uint i = 0u; i < K_VECS; i += K_STEP) {
                    vec4 x[4];
                    pool_load(true, k_tile, read, share_element(i, K_STEP, split), 4u * K_STEP, x);
                    [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                        [[unroll]] for (uint j = 0u; j < K_STEP; j++) {
                            products[p] = fma(query[p][i + j], x[j], products[p]);
                        }
                    }
                }
                [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                    precise float score = (products[p].x + products[p].y) + (products[p].z + products[p].w);
                    score = subgroup_sum_between(score, 1u, D_SPLIT);
                    mine[p] = turn == split && sees(p, slot) ? scaled(score) : mine[p];
                }
            }
            [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                scores[p * KV_BLOCK + base + lane] = mine[p];
                top[p] = max(top[p], mine[p]);
            }
        }

        // A loop with a loop inside stays one on some drivers, so what it needs of a pair is selected.
        [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
            uint from = NO_SLOT;
            uint to = 0u;
            float best = LOWEST;
            [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                from = p == i ? own_from[p] : from;
                to = p == i ? own_to[p] : to;
                best = p == i ? top[p] : best;
            }
            best = subgroup_max(best);
            float total = 0.0;
            [[dont_unroll]] for (uint base = first; base <= s.some.to; base += SG) {
                uint slot = base + split * KEYS + group;
                precise float below = scores[i * KV_BLOCK + base + lane] - best;
                float weight = slot >= from && slot <= to ? exp(below) : 0.0;
                total += weight;
                scores[i * KV_BLOCK + base + lane] = weight;
            }
            total = subgroup_sum(total);
            if (lane == 0u && is_shared(s, i)) {
                part[pair_part(i)] = best;
                part[pair_part(i) + 1u] = total;
            }
        }

        vec4 sums[PAIRS][V_VECS];
        [[unroll]] for (uint i = 0u; i < PAIRS * V_VECS; i++) {
            sums[i / V_VECS][i % V_VECS] = vec4(0.0);
        }
        [[dont_unroll]] for (uint base = first; base <= s.some.to; base += SG) {
            float mine[PAIRS];
            [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                mine[p] = scores[p * KV_BLOCK + base + lane];
            }
            bool every = base >= s.every.from && base + SG - 1u <= s.every.to;
            [[dont_unroll]] for (uint turn = 0u; turn < D_SPLIT; turn++) {
                uint slot = base + turn * KEYS + group;
                uint read = clamp(slot, s.some.from, s.some.to);
                float weight[PAIRS];
                [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                    weight[p] = subgroupShuffle(mine[p], group * D_SPLIT + turn);
                }
                [[unroll]] for (uint i = 0u; i < V_VECS; i += V_STEP) {
                    vec4 x[4];
                    pool_load(false, v_tile, read, share_element(i, V_STEP, split), 4u * V_STEP, x);
                    if (every) {
                        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                            [[unroll]] for (uint j = 0u; j < V_STEP; j++) {
                                sums[p][i + j] = fma(vec4(weight[p]), x[j], sums[p][i + j]);
                            }
                        }
                    } else {
                        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                            if (is_shared(s, p) && sees(p, slot)) {
                                [[unroll]] for (uint j = 0u; j < V_STEP; j++) {
                                    sums[p][i + j] = fma(vec4(weight[p]), x[j], sums[p][i + j]);
                                }
                            }
                        }
                    }
                }
            }
        }
        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
            [[unroll]] for (uint i = 0u; i < V_VECS; i++) {
                vec4 sum = sums[p][i];
                [[unroll]] for (uint mask = D_SPLIT; mask < SG; mask <<= 1u) {
                    sum += subgroupShuffleXor(sum, mask);
                }
                if (group == 0u && is_shared(s, p)) {
                    uint at = pair_part(p) + 2u + share_element(i, V_STEP, split);
                    part[at] = sum.x;
                    part[at + 1u] = sum.y;
                    part[at + 2u] = sum.z;
                    part[at + 3u] = sum.w;
                }
            }
        }
    }
}
