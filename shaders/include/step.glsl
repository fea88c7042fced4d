// One record per row of a step: everything that changes from token to token. Shaders read it and advance it.

struct StepRow {
    uint token;         // id of the row's token
    uint position;      // its position in the conversation, from 0
    uint table;         // index in block_table of the first entry of the row's session
    uint begin;         // first visible key position; keys begin..=position are visible
    uint sampler_index; // record of the row's sampler
    uint segment;       // rows of one conversation in one round share a segment
    uint out_index;     // index of the row's result
    uint flags;
};

// Positions per KV block and per attention chunk.
const uint KV_BLOCK = 128;
