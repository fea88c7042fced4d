// tq1_0: 256 weights in 54 bytes: 52 bytes of ternary fractions, f16 d; weight = d * (digit - 1). Digit n of
// byte b (five digits in bytes 0..48, four in 48..52) is ((b * 3^n) mod 256) * 3 / 256. Bytes 0..32 hold
// weights 32 n + byte, 32..48 160 + 16 n + byte, 48..52 240 + 4 n + byte. Blocks start at even bytes.
#define FORMAT_K 256
#define FORMAT_BYTES 54
#define FORMAT_UNIT 32
#define FORMAT_GROUPS 1
#define FORMAT_MIN

// Digit n of four fractions, given 3^n. Two bytes per word leave room for the carries of the multiplications.
int tq1_0_digits(uint fractions, uint power) {
    uint even = ((fractions & 0x00ff00ff) * power) & 0x00ff00ff;
    uint odd = (((fractions >> 8) & 0x00ff00ff) * power) & 0x00ff00ff;
    return int((((even * 3) >> 8) & 0x00030003) | ((odd * 3) & 0x03000300));
}

void format_unit(uint base, uint unit, out Group g[FORMAT_GROUPS]) {
    uint start = base + (unit >> 3) * FORMAT_BYTES;
    bool split = (start & 2) != 0;
    uint at = start >> 2;
    uint group = unit & 7;
    // Group 0 to 4: one digit of words 0 to 7. 5 and 6: two digits of words 8 to 11. 7: the last digit of
    // those, then the four of word 12.
    bool wide = group < 5;
    bool last = group == 7;
    uint low_at = at + (wide ? 0 : 8);
    uint high_at = at + (wide ? 4 : last ? 12 : 8);
    // 3^n for the lower half; n = group or 2 * (group - 5).
    uint nine = (group & 1) != 0 ? 27 : 9;
    uint one = group < 2 ? 1 + 2 * group : group < 4 ? nine : 81;
    uint low_power = wide ? one : last ? 81 : group == 6 ? 9 : 1;
    uint power = 1;
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint ahead = last ? 0 : i;
        uint low = weights_join(split, weights[low_at + i], weights[low_at + i + 1]);
        uint high = weights_join(split, weights[high_at + ahead], weights[high_at + ahead + 1]);
        g[0].q[i] = tq1_0_digits(low, low_power);
        g[0].q[i + 4] = tq1_0_digits(high, wide ? low_power : last ? power : low_power * 3);
        power *= 3;
    }
    vec2 halves = unpackHalf2x16(weights[at + 13]);
    float d = split ? halves.y : halves.x;
    g[0].d = vec2(d);
    g[0].m = vec2(-d);
}
