// Sums and minima over the lanes of a subgroup, of integers only.

// Puts together sums of the low halves, the high halves and the upper words of 64-bit numbers.
uvec2 join64(uint low, uint middle, uint high) {
    return add64(uvec2(low, high), uvec2(middle << 16u, middle >> 16u));
}

uvec2 subgroup_add64(uvec2 v) {
    return join64(subgroupAdd(v.x & 0xffffu), subgroupAdd(v.x >> 16u), subgroupAdd(v.y));
}

// Sum over the lanes before this one.
uvec2 subgroup_before64(uvec2 v) {
    return join64(subgroupExclusiveAdd(v.x & 0xffffu), subgroupExclusiveAdd(v.x >> 16u), subgroupExclusiveAdd(v.y));
}

// The largest key and the lowest id that has it, over all lanes.
void subgroup_best(inout uint key, inout uint id) {
    uint best = subgroupMax(key);
    id = subgroupMin(key == best ? id : NO_TOKEN);
    key = best;
}

// Keeps the better of two candidates.
void take_better(inout uint key, inout uint id, uint other_key, uint other_id) {
    if (other_key > key || (other_key == key && other_id < id)) {
        key = other_key;
        id = other_id;
    }
}
