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

// First key position that a row sees in a layer with a window of so many keys; 0 is a layer without.
uint window_begin(uint begin, uint position, uint window) {
    return window == 0u ? begin : max(begin, position + 1u - min(window, position + 1u));
}

// Chunk from which the parts of a row are counted: layers with a window keep those that a row can see, others all.
uint window_chunk(uint begin, uint window) {
    return window == 0u ? 0u : begin / KV_BLOCK;
}
