// The assignments of rows to experts, sorted by expert, and tiles of them for `linear`. One subgroup; expert e belongs to
// lane e % SG, so nobody waits for anybody.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint EXPERTS = 128u;
// 1: assignment a is to expert a % EXPERTS, as rows are to heads.
layout(constant_id = 3) const uint ROUND = 0u;

#define SUMS_SHUFFLE
#include "lanes.glsl"

layout(binding = 0) readonly restrict buffer Ids { uint ids[]; };
layout(binding = 1) writeonly restrict buffer Tiles { uvec4 tiles[]; };
layout(binding = 2) writeonly restrict buffer Order { uint order[]; };

layout(push_constant) uniform Push {
    uint ids_at;
    uint tiles_at;
    uint order_at;
    // Assignments, rows of a tile, tiles that there is room for.
    uint count;
    uint tile_rows;
    uint tile_count;
} push;

// Assignments of each expert, then the place of its next one.
shared uint place[EXPERTS];

uint expert_of(uint a) {
    return ROUND == 1u ? a % EXPERTS : min(ids[push.ids_at + a], EXPERTS - 1u);
}

void main() {
    uint lane = LANE;
    [[dont_unroll]] for (uint e = lane; e < EXPERTS; e += SG) {
        place[e] = 0u;
    }
    [[dont_unroll]] for (uint a = 0u; a < push.count; a++) {
        uint expert = expert_of(a);
        if (lane == expert % SG) {
            place[expert]++;
        }
    }
    uint places = 0u;
    uint used = 0u;
    [[dont_unroll]] for (uint first = 0u; first < EXPERTS; first += SG) {
        uint expert = first + lane;
        uint own = 0u;
        if (expert < EXPERTS) {
            own = place[expert];
        }
        uint own_tiles = (own + push.tile_rows - 1u) / push.tile_rows;
        uint start = places + lanes_add_before(own);
        uint tile = used + lanes_add_before(own_tiles);
        [[dont_unroll]] for (uint t = 0u; t < own_tiles; t++) {
            uint done = t * push.tile_rows;
            uint height = min(own - done, push.tile_rows);
            tiles[(push.tiles_at >> 2u) + tile + t] = uvec4(expert, start + done, height, 0u);
        }
        if (expert < EXPERTS) {
            place[expert] = start;
        }
        places += lanes_add(own);
        used += lanes_add(own_tiles);
    }
    [[dont_unroll]] for (uint t = used + lane; t < push.tile_count; t += SG) {
        tiles[(push.tiles_at >> 2u) + t] = uvec4(0u);
    }
    [[dont_unroll]] for (uint a = 0u; a < push.count; a++) {
        uint expert = expert_of(a);
        if (lane == expert % SG) {
            order[push.order_at + place[expert]] = a;
            place[expert]++;
        }
    }
}
