// The mass of a row, from the partial results of `argmax`.
// The kernel has included sampler_work.glsl.

// ln of the mass of the row, in units of the mass of its largest logit.
float ln_mass(uint row, uint top) {
    uvec2 mass = uvec2(0u);
    for (uint slice = LANE; slice < slice_count(); slice += SG) {
        uint at = work_at(row) + slice * PARTIAL_WORDS;
        if (part[at] != KEY_NONE) {
            uint high, low;
            umulExtended(part[at + 2u], mass_of(distance_of(part[at], top)), high, low);
            mass = add64(mass, uvec2((high << 12u) | (low >> 20u), high >> 20u));
        }
    }
    mass = subgroup_add64(mass);
    precise float sum = float(mass.x) * 2.32830644e-10 + float(mass.y);
    return ln_of(sum);
}
