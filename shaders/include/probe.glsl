// Shares of a probe's quads: a workgroup's lie side by side, as suits the caches and prefetchers of CPUs and GPUs alike.

// First quad of the workgroup and the one after its last.
uvec2 probe_share(uint quads) {
    uint share = (quads + gl_NumWorkGroups.x - 1u) / gl_NumWorkGroups.x;
    uint first = min(gl_WorkGroupID.x * share, quads);
    return uvec2(first, min(first + share, quads));
}
