// One unit of one output's weights times the same unit of ROWS rows of x, added to sum[]. Group order, then element
// order; every row's arithmetic is the same whatever ROWS is.

#ifdef ACT_Q8
void activations_unit(uint base, uint unit, uint row0, inout float sum[ROWS]) {
    Group g[FORMAT_GROUPS];
    format_unit(base, unit, g);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        if (linear_lacks(r)) {
            break;
        }
        uint at = linear_row(row0 + r) / 4u + unit * (FORMAT_GROUPS * 3u);
        [[unroll]] for (uint i = 0u; i < FORMAT_GROUPS; i++) {
            ivec4 a = ivec4(x4[at + i * 3u]);
            ivec4 b = ivec4(x4[at + i * 3u + 1u]);
            vec3 d = uintBitsToFloat(x4[at + i * 3u + 2u].xyz);
            int low = dotPacked4x8EXT(g[i].q[0], a.x) + dotPacked4x8EXT(g[i].q[1], a.y)
                + dotPacked4x8EXT(g[i].q[2], a.z) + dotPacked4x8EXT(g[i].q[3], a.w);
            int high = dotPacked4x8EXT(g[i].q[4], b.x) + dotPacked4x8EXT(g[i].q[5], b.y)
                + dotPacked4x8EXT(g[i].q[6], b.z) + dotPacked4x8EXT(g[i].q[7], b.w);
#ifdef FORMAT_HALVES
            precise float both = g[i].d.x * float(low);
            both = fma(g[i].d.y, float(high), both);
            sum[r] = fma(both, d.x, sum[r]);
#else
            precise float both = g[i].d.x * d.x;
            sum[r] = fma(both, float(low + high), sum[r]);
#endif
#if defined(FORMAT_MIN) && defined(FORMAT_HALVES)
            sum[r] = fma(g[i].m.x, d.y, sum[r]);
            sum[r] = fma(g[i].m.y, d.z, sum[r]);
#elif defined(FORMAT_MIN)
            precise float all = d.y + d.z;
            sum[r] = fma(g[i].m.x, all, sum[r]);
#endif
        }
    }
}
#else
void activations_unit(uint base, uint unit, uint row0, inout float sum[ROWS]) {
    float w[FORMAT_UNIT];
    uint first = unit * FORMAT_UNIT;
#ifdef FORMAT_FLOAT
    uint valid = min(push.k - first, FORMAT_UNIT);
    if (valid < FORMAT_UNIT) {
        format_unit_float(base, unit, valid, w);
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            uint at = linear_row(row0 + r) + first;
            [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e++) {
                if (e < valid) sum[r] = fma(w[e], uintBitsToFloat(x[at + e]), sum[r]);
            }
        }
        return;
    }
#endif
    format_unit_decode(base, unit, FORMAT_UNIT, w);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        if (linear_lacks(r)) {
            break;
        }
        uint at = linear_row(row0 + r) + first;
        [[unroll]] for (uint e = 0u; e < FORMAT_UNIT; e += 4u) {
#ifdef FORMAT_FLOAT
            vec4 v = uintBitsToFloat(uvec4(x[at + e], x[at + e + 1u], x[at + e + 2u], x[at + e + 3u]));
#else
            vec4 v = uintBitsToFloat(x4[(at + e) / 4u]);
#endif
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                sum[r] = fma(w[e + i], v[i], sum[r]);
            }
        }
    }
}
#endif
