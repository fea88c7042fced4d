// q5_k: 256 weights in 176 bytes: the head of q4_k, 32 bytes of fifth bits (bit g of byte e for weight e of
// group g), then nibbles as in q4_k; weight = d * scale * q - dmin * minimum.
#define FORMAT_VEC4
#define FORMAT_K 256
#define FORMAT_BYTES 176
#define FORMAT_UNIT 64
#define FORMAT_GROUPS 2
#define FORMAT_MIN

#include "k_scales.glsl"

layout(binding = WEIGHTS_BINDING) readonly buffer Weights4 { uvec4 weights4[]; };

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint at = (base >> 4) + (unit >> 2) * 11;
    uint run = unit & 3;
    vec2 even, odd;
    k_scales(weights4[at], run, even, odd);
    [[unroll]] for (int half_run = 0; half_run < 2; half_run++) {
        uvec4 nibbles = weights4[at + 3 + run * 2 + half_run];
        uvec4 fifth = weights4[at + 1 + half_run] >> (run * 2);
        [[unroll]] for (int i = 0; i < 4; i++) {
            g[0].q[i + 4 * half_run] = int((nibbles[i] & 0x0f0f0f0f) | ((fifth[i] << 4) & 0x10101010));
            g[1].q[i + 4 * half_run] = int(((nibbles[i] >> 4) & 0x0f0f0f0f) | ((fifth[i] << 3) & 0x10101010));
        }
    }
    g[0].d = even.xx;
    g[0].m = even.yy;
    g[1].d = odd.xx;
    g[1].m = odd.yy;
}
