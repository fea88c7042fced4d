// Linear for narrow subgroups (software Vulkan), where every loaded word costs several instructions and lanes share
// nothing for free: a lane keeps its strip of k of ROWS rows in registers while the subgroup walks SG * OUTS outputs,
// so each word of x is loaded once for all of them and each weight once for all rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require

// Outputs that a lane stores.
layout(constant_id = 5) const uint OUTS = 4u;

#include "linear.glsl"

// A lane's strip of a row: one or more whole units. Short for float formats, whose code would grow too long.
#ifdef FORMAT_FLOAT
const uint STRIP_UNITS = 2u;
#elif FORMAT_UNIT < 64
const uint STRIP_UNITS = 64u / FORMAT_UNIT;
#else
const uint STRIP_UNITS = 1u;
#endif
const uint STRIP = STRIP_UNITS * FORMAT_UNIT;
// 16-byte loads of x that make a strip, and how many of them one turn of the loading loop takes.
#ifdef ACT_Q8
const uint LOADS = STRIP / 32u * 3u;
const uint TURN = 3u;
#else
const uint LOADS = STRIP / 4u;
const uint TURN = 4u;
#endif

// Whole units of a row.
uint strip_units() {
    return push.k / FORMAT_UNIT;
}

// 16 bytes of x: load `load` of the strip that begins with unit `unit`; zero behind the row's last whole unit.
uvec4 strip_load(uint row_at, uint unit, uint load) {
    uint per_unit = LOADS / STRIP_UNITS;
    uint last = strip_units() * per_unit - 1u;
    uint at = unit * per_unit + load;
#ifdef FORMAT_FLOAT
    uint word = row_at + min(at, last) * 4u;
    uvec4 v = uvec4(x[word], x[word + 1u], x[word + 2u], x[word + 3u]);
#else
    uvec4 v = x4[row_at / 4u + min(at, last)];
#endif
    return at <= last ? v : uvec4(0u);
}

// Sum over the lanes, in all lanes, as a balanced tree.
float strip_sum(float value) {
    precise float part[SG];
    [[unroll]] for (uint l = 0u; l < SG; l++) {
        part[l] = subgroupBroadcast(value, l);
    }
    [[unroll]] for (uint width = SG / 2u; width > 0u; width /= 2u) {
        [[unroll]] for (uint l = 0u; l < width; l++) {
            part[l] = part[2u * l] + part[2u * l + 1u];
        }
    }
    return part[0];
}

void main() {
    uint lane = gl_SubgroupInvocationID;
    uint first = gl_WorkGroupID.x * (SG * OUTS);
    uint row0 = linear_begin();
    if (linear_idle()) {
        return;
    }
    uint units = strip_units();
    uint outputs = min(push.n - first, SG * OUTS);
    float acc[OUTS][ROWS];
    [[unroll]] for (uint o = 0u; o < OUTS; o++) {
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            acc[o][r] = 0.0;
        }
    }
    for (uint chunk = 0u; chunk < units; chunk += SG * STRIP_UNITS) {
        uint unit = chunk + lane * STRIP_UNITS;
        // Rows are loaded in a real loop and then sorted into registers: loads are long code here, selections short.
        uvec4 v[ROWS][LOADS];
        [[dont_unroll]] for (uint q = 0u; q < ROWS; q++) {
            uint row_at = linear_row(row0 + q);
            uvec4 one[LOADS];
            [[dont_unroll]] for (uint j = 0u; j < LOADS; j += TURN) {
                uvec4 some[TURN];
                [[unroll]] for (uint i = 0u; i < TURN; i++) {
                    some[i] = strip_load(row_at, unit, j + i);
                }
                [[unroll]] for (uint i = 0u; i < LOADS; i++) {
                    one[i] = i / TURN == j / TURN ? some[i % TURN] : one[i];
                }
            }
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                [[unroll]] for (uint i = 0u; i < LOADS; i++) {
                    v[r][i] = r == q ? one[i] : v[r][i];
                }
            }
        }
#ifdef ACT_Q8
        int xe[ROWS][STRIP];
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            [[unroll]] for (uint e = 0u; e < STRIP; e++) {
                xe[r][e] = bitfieldExtract(int(v[r][e / 32u * 3u + e % 32u / 16u][e % 16u / 4u]), int(e % 4u * 8u), 8);
            }
        }
#endif
        uint base = linear_base(first);
        [[dont_unroll]] for (uint t = 0u; t < outputs; t++) {
            float part[ROWS];
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                part[r] = 0.0;
            }
            [[unroll]] for (uint s = 0u; s < STRIP_UNITS; s++) {
#ifdef ACT_Q8
                Group g[FORMAT_GROUPS];
                format_unit(base, min(unit + s, units - 1u), g);
                [[unroll]] for (uint i = 0u; i < FORMAT_GROUPS; i++) {
                    uint group = s * FORMAT_GROUPS + i;
                    int low[ROWS], high[ROWS];
                    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                        low[r] = 0;
                        high[r] = 0;
                    }
                    [[unroll]] for (uint e = 0u; e < 16u; e++) {
                        int w0 = bitfieldExtract(g[i].q[e / 4u], int(e % 4u * 8u), 8);
                        int w1 = bitfieldExtract(g[i].q[e / 4u + 4u], int(e % 4u * 8u), 8);
                        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                            low[r] += w0 * xe[r][group * 32u + e];
                            high[r] += w1 * xe[r][group * 32u + e + 16u];
                        }
                    }
                    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                        vec3 d = uintBitsToFloat(v[r][group * 3u + 2u].xyz);
#ifdef FORMAT_HALVES
                        precise float both = fma(g[i].d.y, float(high[r]), g[i].d.x * float(low[r]));
                        part[r] = fma(both, d.x, part[r]);
#else
                        precise float both = g[i].d.x * d.x;
                        part[r] = fma(both, float(low[r] + high[r]), part[r]);
#endif
#if defined(FORMAT_MIN) && defined(FORMAT_HALVES)
                        part[r] = fma(g[i].m.x, d.y, part[r]);
                        part[r] = fma(g[i].m.y, d.z, part[r]);
#elif defined(FORMAT_MIN)
                        precise float sum = d.y + d.z;
                        part[r] = fma(g[i].m.x, sum, part[r]);
#endif
                    }
                }
#else
                float w[FORMAT_UNIT];
                format_unit_decode(base, min(unit + s, units - 1u), FORMAT_UNIT, w);
                [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                    [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e++) {
                        part[r] = fma(w[e], uintBitsToFloat(v[r][(s * FORMAT_UNIT + e) / 4u][e % 4u]), part[r]);
                    }
                }
#endif
            }
            // The sum goes to the lane that will store the output.
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                float sum = strip_sum(part[r]);
                [[unroll]] for (uint o = 0u; o < OUTS; o++) {
                    precise float next = acc[o][r] + sum;
                    acc[o][r] = t == o * SG + lane ? next : acc[o][r];
                }
            }
            base += push.row_bytes;
        }
    }
#ifdef FORMAT_FLOAT
    // The elements behind the last whole unit, each lane for its own outputs; rare, hence short rather than fast.
    uint valid = push.k % FORMAT_UNIT;
    [[dont_unroll]] for (uint turn = 0u; turn < valid * OUTS; turn++) {
        uint e = turn % valid;
        float w[FORMAT_UNIT];
        format_unit_float(linear_base(first + turn / valid * SG + lane), units, valid, w);
        [[unroll]] for (uint i = 1u; i < FORMAT_UNIT; i++) {
            w[0] = i == e ? w[i] : w[0];
        }
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            float value = uintBitsToFloat(x[linear_row(row0 + r) + units * FORMAT_UNIT + e]);
            [[unroll]] for (uint o = 0u; o < OUTS; o++) {
                precise float next = fma(w[0], value, acc[o][r]);
                acc[o][r] = o == turn / valid ? next : acc[o][r];
            }
        }
    }
#endif
    [[unroll]] for (uint o = 0u; o < OUTS; o++) {
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            linear_store(row0 + r, first + o * SG + lane, acc[o][r]);
        }
    }
}
