// Vectors of iq1_s and iq1_m: -1, 0, 1 shifted by an eighth up or down, as bytes of eight times that value.

// Four 2-bit codes of a vector; `down` is 0 or 1. Lifted by 128 so that no byte borrows: 128 - 8 + 1 = 0x79.
int iq1_eighths(uint codes, uint down) {
    return int((iq_pairs(codes & 0xff) * 8 + 0x79797979 - down * 0x02020202) ^ 0x80808080);
}
