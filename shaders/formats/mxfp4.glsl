// mxfp4: 32 weights in 17 bytes: exponent byte (e8m0, bias 127), nibbles as in q4_0 that are e2m1 floats;
// weight = 2^(exponent - 128) * twice the float, which is one of 0, 1, 2, 3, 4, 6, 8, 12 or its negative.
// Blocks start at any byte.
#define FORMAT_K 32
#define FORMAT_BYTES 17
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1

// Doubled values of four e2m1 codes in the low nibbles of four bytes.
int mxfp4_values(uint codes) {
    uint top = (codes >> 2) & 0x01010101;
    // Above 3 the two lower bits count double, and both together once more.
    uint more = codes & (top * 3);
    uint size = (codes & 0x07070707) + more + (((more & (more >> 1)) & 0x01010101) << 1);
    uint sign = (codes >> 3) & 0x01010101;
    // Subtracting twice the size where negative, on bytes lifted by 128 so that none borrows.
    return int((size + 0x80808080 - ((size & (sign * 15)) << 1)) ^ 0x80808080);
}

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + unit * FORMAT_BYTES;
    uint at = start >> 2;
    uint shift = (start & 3) * 8;
    uint w[5];
    [[unroll]] for (int i = 0; i < 5; i++) w[i] = weights[at + i];
    [[unroll]] for (int i = 0; i < 4; i++) {
        // Bytes 1 to 4 after `shift` bits; two steps because a shift by 32 is undefined.
        uint codes = ((w[i] >> shift) >> 8) | (w[i + 1] << (24 - shift));
        g[0].q[i] = mxfp4_values(codes);
        g[0].q[i + 4] = mxfp4_values(codes >> 4);
    }
    uint exponent = (w[0] >> shift) & 0xff;
    // Exponents 0 and 1 give subnormal scales.
    g[0].d = vec2(uintBitsToFloat(exponent < 2 ? 0x00200000 << exponent : (exponent - 1) << 23));
    g[0].m = vec2(0.0);
}
