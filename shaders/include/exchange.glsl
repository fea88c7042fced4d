// What lanes of a subgroup of SG lanes tell each other. Axis WAY=safe: through shared memory, for devices whose operations
// over subgroups are wrong. All lanes of a workgroup of WG lanes then call together, and the bits are the same.
#ifndef EXCHANGE
#define EXCHANGE

#ifdef WAY_SAFE
#define LANE (gl_LocalInvocationIndex % SG)

shared uint exchanged[WG];

// Whether a lane has work: those without go along to exchanges and write nothing.
bool live = true;
#define IF_LIVE if (live)
#define WHERE_LIVE(condition) (live && (condition))

uint exchange(uint value, uint lane) {
    exchanged[gl_LocalInvocationIndex] = value;
    barrier();
    uint other = exchanged[gl_LocalInvocationIndex / SG * SG + lane % SG];
    barrier();
    return other;
}

int exchange(int value, uint lane) {
    return int(exchange(uint(value), lane));
}

float exchange(float value, uint lane) {
    return uintBitsToFloat(exchange(floatBitsToUint(value), lane));
}

#define subgroupShuffle(value, lane) exchange(value, lane)
#define subgroupBroadcast(value, lane) exchange(value, lane)
#define subgroupShuffleXor(value, mask) exchange(value, LANE ^ (mask))
#define subgroupBarrier() barrier()
#define subgroupMemoryBarrierShared() memoryBarrierShared()
#else
#define LANE gl_SubgroupInvocationID
#define IF_LIVE
#define WHERE_LIVE(condition) (condition)
#endif

#endif
