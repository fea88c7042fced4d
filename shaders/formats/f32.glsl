// f32: plain 32-bit floats.
#define FORMAT_FLOAT
#define FORMAT_K 1
#define FORMAT_BYTES 4
#define FORMAT_UNIT 8

void format_unit_float(uint base, uint unit, uint valid, out float w[FORMAT_UNIT]) {
    uint at = (base >> 2) + unit * FORMAT_UNIT;
    if (valid == FORMAT_UNIT) {
        [[unroll]] for (int e = 0; e < FORMAT_UNIT; e++) w[e] = uintBitsToFloat(weights[at + e]);
    } else {
        [[unroll]] for (int e = 0; e < FORMAT_UNIT; e++) {
            w[e] = 0.0;
            if (e < valid) w[e] = uintBitsToFloat(weights[at + e]);
        }
    }
}
