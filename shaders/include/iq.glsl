// What the iq formats share, after GRID (one of grid_*.glsl): vectors of codes to bytes, and their signs.

// Vector of an index where GRID packs two of 16 bits per word.
uint iq_vector(uint index) {
    return (GRID[index >> 1] >> ((index & 1) * 16)) & 0xffff;
}

// Four 2-bit codes, lowest first, to four bytes.
uint iq_pairs(uint codes) {
    uint t = (codes | (codes << 12)) & 0x000f000f;
    return (t | (t << 6)) & 0x03030303;
}

// The sizes 8, 25, 43 of four 2-bit codes.
uint iq2_sizes(uint codes) {
    uint t = iq_pairs(codes & 0xff);
    return t * 17 + 0x08080808 + ((t >> 1) & 0x01010101);
}

// Four sizes above zero, negated where the lowest four bits of `signs` are set.
int iq_signed(uint sizes, uint signs) {
    uint ones = weights_spread(signs);
    return int((sizes ^ ((ones << 8) - ones)) + ones);
}

// Parity of each field of seven bits, at the field's lowest bit; other bits mean nothing.
uint iq_parity(uint fields) {
    uint pairs = fields ^ (fields >> 1);
    return pairs ^ (pairs >> 2) ^ (pairs >> 4) ^ (fields >> 6);
}

// The eight signs of seven stored bits at `shift`: an even number of them is set.
uint iq_even_signs(uint fields, uint parity, uint shift) {
    return ((fields >> shift) & 127) | ((parity >> shift) & 1) << 7;
}
