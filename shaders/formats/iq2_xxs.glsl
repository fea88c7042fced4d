// iq2_xxs: 256 weights in 66 bytes: f16 d; per group four bytes of grid index and a word of four 7-bit sign
// indices and a 4-bit scale; weight = d * (scale + 0.5) / 4 * sign * grid. Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 66
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

#include "grid_iq2_xxs.glsl"
#include "iq.glsl"

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    uint at = start + 2 + (unit & 7) * 8;
    uint indices = weights_u32(at);
    uint fields = weights_u32(at + 4);
    uint parity = iq_parity(fields);
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint vector = iq_vector((indices >> (8 * i)) & 0xff);
        uint signs = iq_even_signs(fields, parity, 7 * i);
        g[0].q[2 * i] = iq_signed(iq2_sizes(vector), signs);
        g[0].q[2 * i + 1] = iq_signed(iq2_sizes(vector >> 8), signs >> 4);
    }
    g[0].d = vec2(weights_f16(start) * (0.5 + float(fields >> 28)) * 0.25);
    g[0].m = vec2(0.0);
}
