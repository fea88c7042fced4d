// The end of a verification. A segment's rows are its cursor and the drafts after it; a draft is accepted while it is
// the token that the target drew in the row before. The draw after the last accepted one is the segment's new cursor.
// A drafter is handed its last two tokens: the first of them is the one it may not have computed. One lane per segment.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;

#include "step.glsl"
#include "sampler.glsl"

layout(binding = 0) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 1) readonly restrict buffer Drawn { uint drawn[]; };  // by out_index: token, ln p, position, segment
layout(binding = 2) restrict buffer Cursors { StepRow cursors[]; };    // by segment
layout(binding = 3) restrict buffer Pairs { StepRow pairs[]; };        // two by segment: a drafter's last tokens
layout(binding = 4) writeonly restrict buffer Outcomes { uint outcomes[]; }; // drafted, accepted, token, position

layout(push_constant) uniform Push {
    uint rows_at;
    uint drawn_at;
    uint cursors_at;
    uint pairs_at;
    uint outcomes_at;
    uint row_count;
    uint segments;
    uint draft_vocab;
} push;

const uint RESULT_WORDS = 4u;
const uint NO_ROW = 0xffffffffu;

// What a drafter that does not know a token is given for it.
uint known(uint token) {
    return token < push.draft_vocab ? token : 0u;
}

void main() {
    uint segment = gl_GlobalInvocationID.x;
    if (segment >= push.segments) {
        return;
    }
    uint last = NO_ROW;  // row of the last accepted token
    uint next = NO_TOKEN; // what the target drew there
    uint drafted = 0u;
    uint accepted = 0u;
    bool open = true;
    for (uint i = 0u; i < push.row_count; i++) {
        StepRow row = rows[(push.rows_at >> 3u) + i];
        if (row.segment != segment || (row.flags & ROW_IDLE) != 0u) {
            continue;
        }
        if (last != NO_ROW) {
            drafted++;
            open = open && row.token == next;
            accepted += open ? 1u : 0u;
        }
        if (open) {
            last = i;
            next = drawn[push.drawn_at + row.out_index * RESULT_WORDS];
        }
    }
    if (last == NO_ROW) {
        return;
    }
    StepRow row = rows[(push.rows_at >> 3u) + last];
    uint at = push.outcomes_at + segment * RESULT_WORDS;
    outcomes[at] = drafted;
    outcomes[at + 1u] = accepted;
    outcomes[at + 2u] = next;
    outcomes[at + 3u] = row.position + 1u;
    if (next != NO_TOKEN) {
        uint cursor = (push.cursors_at >> 3u) + segment;
        cursors[cursor].token = next;
        cursors[cursor].position = row.position + 1u;
        uint pair = (push.pairs_at >> 3u) + 2u * segment;
        pairs[pair].token = known(row.token);
        pairs[pair].position = row.position;
        pairs[pair + 1u].token = known(next);
        pairs[pair + 1u].position = row.position + 1u;
    }
}
