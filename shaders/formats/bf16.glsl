// bf16: the upper halves of 32-bit floats, two per word. Rows have an even number of elements, so that a row
// starts at a word.
#define FORMAT_FLOAT
#define FORMAT_K 1
#define FORMAT_BYTES 2
#define FORMAT_UNIT 8

void format_unit_float(uint base, uint unit, uint valid, out float w[FORMAT_UNIT]) {
    uint at = (base >> 2) + unit * (FORMAT_UNIT / 2);
    [[unroll]] for (int i = 0; i < FORMAT_UNIT / 2; i++) {
        uint word = 0;
        if (2 * i < valid) word = weights[at + i];
        vec2 pair = uintBitsToFloat(uvec2(word << 16, word & 0xffff0000));
        w[2 * i] = pair.x;
        w[2 * i + 1] = pair.y;
    }
}
