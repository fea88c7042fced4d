// The table of 4-bit codes of iq4_nl and iq4_xs, looked up for four codes at once without memory: a tree of
// selections over the codes' bits.

// Byte `value` in all four bytes.
#define NON_LINEAR_BYTES(value) (uint((value) & 0xff) * 0x01010101u)
// Per byte, the second value where the mask is set, else the first.
#define NON_LINEAR_PAIR(mask, a, b) ((mask & NON_LINEAR_BYTES((a) ^ (b))) ^ NON_LINEAR_BYTES(a))
#define NON_LINEAR_SELECT(mask, a, b) ((b & mask) | (a & ~mask))

// 0xff in each byte whose lowest bit is set.
uint non_linear_mask(uint bits) {
    bits &= 0x01010101;
    return (bits << 8) - bits;
}

// Four codes in the low nibbles of four bytes (high nibbles are ignored) to four signed bytes.
int non_linear(uint codes) {
    uint m0 = non_linear_mask(codes);
    uint m1 = non_linear_mask(codes >> 1);
    uint m2 = non_linear_mask(codes >> 2);
    uint m3 = non_linear_mask(codes >> 3);
    uint a = NON_LINEAR_PAIR(m0, -127, -104);
    uint b = NON_LINEAR_PAIR(m0, -83, -65);
    uint c = NON_LINEAR_PAIR(m0, -49, -35);
    uint d = NON_LINEAR_PAIR(m0, -22, -10);
    uint e = NON_LINEAR_PAIR(m0, 1, 13);
    uint f = NON_LINEAR_PAIR(m0, 25, 38);
    uint g = NON_LINEAR_PAIR(m0, 53, 69);
    uint h = NON_LINEAR_PAIR(m0, 89, 113);
    uint ab = NON_LINEAR_SELECT(m1, a, b);
    uint cd = NON_LINEAR_SELECT(m1, c, d);
    uint ef = NON_LINEAR_SELECT(m1, e, f);
    uint gh = NON_LINEAR_SELECT(m1, g, h);
    uint low = NON_LINEAR_SELECT(m2, ab, cd);
    uint high = NON_LINEAR_SELECT(m2, ef, gh);
    return int(NON_LINEAR_SELECT(m3, low, high));
}
