// Weights of any format, for every kernel that reads them. Declares the argument `weights` (binding
// WEIGHTS_BINDING, 0 unless defined before), includes the decoder of axis FORMAT and offers:
//   quantised formats   format_unit(base, unit, out Group g[FORMAT_GROUPS])
//   floats              format_unit_float(base, unit, valid, out float w[FORMAT_UNIT])     (FORMAT_FLOAT)
//   all of them         format_unit_decode(base, unit, valid, out float w[FORMAT_UNIT])
// base is the byte offset of a row's first block from the descriptor's start, unit the index of FORMAT_UNIT
// elements in the row, valid how many elements of the unit exist (quantised rows have no partial units).

#ifndef WEIGHTS_BINDING
#define WEIGHTS_BINDING 0
#endif

layout(binding = WEIGHTS_BINDING) readonly buffer Weights { uint weights[]; };

// 32 weights: weight e = d[e / 16] * (signed byte e % 4 of q[e / 4]) + m[e / 16].
struct Group {
    int q[8];
    vec2 d;
    vec2 m;
};

// The byte at any offset.
uint weights_u8(uint at) {
    return (weights[at >> 2] >> ((at & 3) * 8)) & 0xff;
}

// The 16-bit value at an even byte offset.
uint weights_u16(uint at) {
    return (weights[at >> 2] >> ((at & 2) * 8)) & 0xffff;
}

// The f16 value at an even byte offset.
float weights_f16(uint at) {
    return unpackHalf2x16(weights_u16(at)).x;
}

// Word of bytes 2..5 of the pair (low, high), or `low` itself: blocks of 2-byte alignment start in either
// half.
uint weights_join(bool split, uint low, uint high) {
    return split ? (low >> 16) | (high << 16) : low;
}

// The 32-bit value at an even byte offset.
uint weights_u32(uint at) {
    return weights_join((at & 2) != 0, weights[at >> 2], weights[(at + 2) >> 2]);
}

// The lowest four bits, one per byte: bit b becomes bit 8 b.
uint weights_spread(uint bits) {
    return ((bits & 15) * 0x00204081) & 0x01010101;
}

#include "format.glsl"

#ifdef FORMAT_FLOAT
void format_unit_decode(uint base, uint unit, uint valid, out float w[FORMAT_UNIT]) {
    format_unit_float(base, unit, valid, w);
}
#else
void format_unit_decode(uint base, uint unit, uint valid, out float w[FORMAT_UNIT]) {
    Group g[FORMAT_GROUPS];
    format_unit(base, unit, g);
    [[unroll]] for (int e = 0; e < FORMAT_UNIT; e++) {
        // The product is exact in every format, so this equals fma. `precise` keeps drivers from factoring d
        // out of both terms (some ignore it on fma itself), which would change the sign of zeros.
        float q = float(bitfieldExtract(g[e / 32].q[e % 32 / 4], e % 4 * 8, 8));
#ifdef FORMAT_MIN
        precise float weight = g[e / 32].d[e % 32 / 16] * q + g[e / 32].m[e % 32 / 16];
        w[e] = weight;
#else
        w[e] = g[e / 32].d[e % 32 / 16] * q;
#endif
    }
}
#endif
