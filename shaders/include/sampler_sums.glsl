// Sums and minima over the lanes of a subgroup, of integers only.

// Puts together sums of the low halves, the high halves and the upper words of 64-bit numbers.
uvec2 join64(uint low, uint middle, uint high) {
    return add64(uvec2(low, high), uvec2(middle << 16u, middle >> 16u));
}

uvec2 subgroup_add64(uvec2 v) {
    return join64(lanes_add(v.x & 0xffffu), lanes_add(v.x >> 16u), lanes_add(v.y));
}

// Sum over the lanes before this one.
uvec2 subgroup_before64(uvec2 v) {
    return join64(lanes_add_before(v.x & 0xffffu), lanes_add_before(v.x >> 16u), lanes_add_before(v.y));
}

// The largest key and the lowest id that has it, over all lanes.
void subgroup_best(inout uint key, inout uint id) {
    uint best = lanes_max(key);
    id = lanes_min(key == best ? id : NO_TOKEN);
    key = best;
}

// Keeps the better of two candidates.
void take_better(inout uint key, inout uint id, uint other_key, uint other_id) {
    if (other_key > key || (other_key == key && other_id < id)) {
        key = other_key;
        id = other_id;
    }
}
