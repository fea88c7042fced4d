// Attention for narrow subgroups (software Vulkan), where each loaded word costs several instructions, lanes share
// nothing for free and long code compiles slowly. Of keys a lane has one of every SG, of values eight elements: no sum
// crosses lanes but those of a chunk's maximum and total.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require

#include "attention.glsl"

// Keys that a lane has in hand, so that a loaded query serves them own; more are long code where a key is.
const uint KEYS = K_TYPE == KV_F32 ? 2u : PAIRS > 2u ? 4u : 2u;
// Words that hold eight elements of a query across the lanes.
const uint Q_WORDS = SG < 8u ? 8u / SG : 1u;

void main() {
    // What is done once per pair is done in loops that sort into registers.
    uint left = pairs_that_see();
    uint lane = LANE;
    [[dont_unroll]] while (left != 0u) {
        Shared s = pairs_of_a_block(left);
        uint first = s.some.from / (SG * KEYS) * (SG * KEYS);
        uint k_tile = kv_tile(K_TYPE, s.some.block, push.n_kv, gl_WorkGroupID.y, HEAD);
        uint v_tile = value_tile(s.some.block);

        [[dont_unroll]] for (uint base = first; base <= s.some.to; base += SG * KEYS) {
            float score[PAIRS][KEYS];
            [[unroll]] for (uint i = 0u; i < PAIRS * KEYS; i++) {
                score[i / KEYS][i % KEYS] = 0.0;
            }
            [[dont_unroll]] for (uint element = 0u; element < HEAD; element += 8u) {
                float query[PAIRS][Q_WORDS];
                [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
                    [[unroll]] for (uint w = 0u; w < Q_WORDS; w++) {
                        float one = q[pair_query(i) + element + (w * SG + lane) % 8u];
                        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                            query[p][w] = p == i ? one : query[p][w];
                        }
                    }
                }
                vec4 key[KEYS][4];
                [[unroll]] for (uint k = 0u; k < KEYS; k++) {
                    uint slot = clamp(base + k * SG + lane, s.some.from, s.some.to);
                    pool_load(true, k_tile, slot, element, 8u, key[k]);
                }
                [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                    [[unroll]] for (uint e = 0u; e < 8u; e++) {
                        float one = subgroupBroadcast(query[p][e / SG], e % SG);
                        [[unroll]] for (uint k = 0u; k < KEYS; k++) {
                            score[p][k] = fma(one, key[k][e / 4u][e % 4u], score[p][k]);
                        }
                    }
                }
            }
            [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
                [[unroll]] for (uint k = 0u; k < KEYS; k++) {
                    float own = 0.0;
                    [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                        own = p == i ? score[p][k] : own;
                    }
                    scores[i * KV_BLOCK + base + k * SG + lane] = scaled(own);
                }
            }
        }

        [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
            Slots one = s.some;
            [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                one.from = p == i ? own_from[p] : one.from;
                one.to = p == i ? own_to[p] : one.to;
            }
            float top = LOWEST;
            [[dont_unroll]] for (uint slot = first + lane; slot <= s.some.to; slot += SG) {
                top = slot >= one.from && slot <= one.to ? max(top, scores[i * KV_BLOCK + slot]) : top;
            }
            top = subgroup_max(top);
            float total = 0.0;
            [[dont_unroll]] for (uint slot = first + lane; slot <= s.some.to; slot += SG) {
                precise float below = scores[i * KV_BLOCK + slot] - top;
                float weight = slot >= one.from && slot <= one.to ? exp(below) : 0.0;
                total += weight;
                scores[i * KV_BLOCK + slot] = weight;
            }
            total = subgroup_sum(total);
            if (lane < 2u && is_shared(s, i)) {
                part[pair_part(i) + lane] = lane == 0u ? top : total;
            }
        }

        [[dont_unroll]] for (uint unit = 0u; unit < HEAD_V / 8u; unit += SG) {
            uint element = min(unit + lane, HEAD_V / 8u - 1u) * 8u;
            vec4 sum[PAIRS][2];
            [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                sum[p][0] = vec4(0.0);
                sum[p][1] = vec4(0.0);
            }
            [[dont_unroll]] for (uint base = s.some.from / SG * SG; base <= s.some.to; base += SG) {
                float weight[PAIRS];
                [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
                    float one = scores[i * KV_BLOCK + base + lane];
                    [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                        weight[p] = p == i ? one : weight[p];
                    }
                }
                uint end = min(base + SG - 1u, s.some.to);
                bool every = base >= s.every.from && end <= s.every.to;
                [[dont_unroll]] for (uint slot = max(base, s.some.from); slot <= end; slot++) {
                    vec4 x[4];
                    pool_load(false, v_tile, slot, element, 8u, x);
                    if (every) {
                        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                            vec4 one = vec4(subgroupBroadcast(weight[p], slot - base));
                            sum[p][0] = fma(one, x[0], sum[p][0]);
                            sum[p][1] = fma(one, x[1], sum[p][1]);
                        }
                    } else {
                        [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                            vec4 one = vec4(subgroupBroadcast(weight[p], slot - base));
                            bool seen = is_shared(s, p) && sees(p, slot);
                            sum[p][0] = seen ? fma(one, x[0], sum[p][0]) : sum[p][0];
                            sum[p][1] = seen ? fma(one, x[1], sum[p][1]) : sum[p][1];
                        }
                    }
                }
            }
            [[dont_unroll]] for (uint i = 0u; i < PAIRS; i++) {
                vec4 low = vec4(0.0);
                vec4 high = vec4(0.0);
                [[unroll]] for (uint p = 0u; p < PAIRS; p++) {
                    low = p == i ? sum[p][0] : low;
                    high = p == i ? sum[p][1] : high;
                }
                if (unit + lane < HEAD_V / 8u && is_shared(s, i)) {
                    uint at = pair_part(i) + 2u + element;
                    [[unroll]] for (uint e = 0u; e < 8u; e++) {
                        part[at + e] = e < 4u ? low[e] : high[e - 4u];
                    }
                }
            }
        }
    }
}
