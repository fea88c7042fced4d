// q4_k: 256 weights in 144 bytes: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima of 8 groups, 4 runs of
// 32 bytes: low nibbles are group 2 * run, high nibbles group 2 * run + 1; weight = d * scale * q - dmin *
// minimum.
#define FORMAT_VEC4
#define FORMAT_K 256
#define FORMAT_BYTES 144
#define FORMAT_UNIT 64
#define FORMAT_GROUPS 2
#define FORMAT_MIN

#include "k_scales.glsl"

layout(binding = WEIGHTS_BINDING) readonly buffer Weights4 { uvec4 weights4[]; };

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 4) + (unit >> 2) * 9;
    uint run = unit & 3;
    uvec4 low = weights4[at + 1 + run * 2];
    uvec4 high = weights4[at + 2 + run * 2];
    vec2 even, odd;
    k_scales(weights4[at], run, even, odd);
    [[unroll]] for (int i = 0; i < 4; i++) {
        g[0].q[i] = int(low[i] & 0x0f0f0f0f);
        g[0].q[i + 4] = int(high[i] & 0x0f0f0f0f);
        g[1].q[i] = int((low[i] >> 4) & 0x0f0f0f0f);
        g[1].q[i + 4] = int((high[i] >> 4) & 0x0f0f0f0f);
    }
    g[0].d = even.xx;
    g[0].m = even.yy;
    g[1].d = odd.xx;
    g[1].m = odd.yy;
}
