// The 12 bytes of 6-bit scales and minima that q4_k and q5_k share.

// head = a block's first 16 bytes: f16 d, f16 dmin, then the scales. Gives (d * scale, -dmin * minimum) of
// groups 2 * run and 2 * run + 1. Groups 0..4 keep 6 bits in words y (scales) and z (minima); groups 4..8
// keep 4 bits of each in word w and the upper two on top of y and z.
void k_scales(uvec4 head, uint run, out vec2 even, out vec2 odd) {
    uvec3 pair = head.yzw >> ((run & 1) * 16);
    uvec2 first = pair.xy & 0x3f3f;
    uvec2 last = (uvec2(pair.z, pair.z >> 4) & 0x0f0f) | ((pair.xy >> 2) & 0x3030);
    uvec2 both = run < 2 ? first : last;
    vec2 scale = unpackHalf2x16(head.x) * vec2(1.0, -1.0);
    even = scale * vec2(both & 0xff);
    odd = scale * vec2(both >> 8);
}
