// The state of a recurrent layer over the rows of a step: S = g·S + k·u, y = Sᵀq, per value head and column of its state.
// Gated delta rule (Yang et al. 2024): u = β (v - g·Sᵀk). Mamba-2 (Dao and Gu 2024): u = Δ·v, y += D·v, k and q are B and C.
// LANES neighbouring lanes share COLUMNS columns, which stay in registers from the first row to the last: the state is
// read once and written once, whatever the number of rows. A row's k, u and g are kept in a ring by position. The state
// that is written is that before the step's first row; the next step applies the rows that were accepted meanwhile, which
// its own position tells, with the bits they had. A conversation that begins (position 0) has a state of zeros.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint WG = 64u;
layout(constant_id = 1) const uint SG = 64u;
layout(constant_id = 2) const uint LANES = 8u;
layout(constant_id = 3) const uint QUADS = 4u;   // of a column, per lane
layout(constant_id = 4) const uint COLUMNS = 4u;
layout(constant_id = 5) const uint DELTA = 1u;   // 1 the gated delta rule, 0 Mamba-2
layout(constant_id = 6) const uint COMMIT = 1u;  // the state is written: 0 not, 1 before the rows, 2 after them

#include "step.glsl"

layout(binding = 0) readonly restrict buffer X { float x[]; };         // q, k and v of the rows
layout(binding = 1) readonly restrict buffer Alpha { float alpha[]; }; // what the decay is made of, or Δ
layout(binding = 2) readonly restrict buffer Beta { float beta[]; };
layout(binding = 3) readonly restrict buffer Decay { float decay[]; }; // [heads]
layout(binding = 4) readonly restrict buffer Shift { float shift[]; }; // [heads], added to alpha
layout(binding = 5) readonly restrict buffer Skip { float skip[]; };   // [heads], D of Mamba-2
layout(binding = 6) readonly restrict buffer Rows { StepRow rows[]; };
layout(binding = 7) restrict buffer State { float state[]; };          // [slots][heads][columns][size]
layout(binding = 8) restrict buffer Marks { uint marks[]; };           // [slots][heads][columns]: positions in the state
layout(binding = 9) restrict buffer Terms { float terms[]; };          // [slots][ring][k of key heads, u, g of heads]
layout(binding = 10) writeonly restrict buffer Y { float y[]; };       // [rows][heads][columns]

layout(push_constant) uniform Push {
    uint x_at;
    uint alpha_at;
    uint beta_at;
    uint decay_at;
    uint shift_at;
    uint skip_at;
    uint rows_at;
    uint state_at;
    uint marks_at;
    uint terms_at;
    uint y_at;
    uint x_stride;
    // Words of x before q, k and v.
    uint q_from;
    uint k_from;
    uint v_from;
    // Words from one row of alpha and beta to the next; `gates` heads are neighbours, the next ones lie `gate_jump` behind.
    uint gate_stride;
    uint gates;
    uint gate_jump;
    uint heads;
    uint key_heads;
    // So many neighbouring heads share a key head; 0: a head's key head is what remains of its number.
    uint share;
    uint columns;
    uint row_count;
    uint ring;
} push;

#include "subgroup.glsl"
#include "reduce.glsl"
#include "logistic.glsl"

const uint SIZE = 4u * QUADS * LANES;

vec4 s[COLUMNS * QUADS];
float u[COLUMNS];
uint head;
uint key_head;
uint column;
uint own; // lane among those of its columns

uint quad_of(uint i) {
    return 4u * (i * LANES + own);
}

vec4 x_load(uint at) {
    return vec4(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
}

uint term_words() {
    return push.key_heads * SIZE + push.heads * (push.columns + 1u);
}

uint term_of(uint slot, uint position) {
    return push.terms_at + (slot * push.ring + position % push.ring) * term_words();
}

uint column_of(uint slot) {
    return (slot * push.heads + head) * push.columns + column;
}

void update(uint c, uint i, float g, vec4 k) {
    precise vec4 kept = g * s[c * QUADS + i];
    precise vec4 next = fma(k, vec4(u[c]), kept);
    s[c * QUADS + i] = next;
}

// The state before a position, with what was accepted since it was written.
void begin(uint slot, uint position) {
    uint from = column_of(slot);
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint at = push.state_at + (from + c) * SIZE + quad_of(i);
            s[c * QUADS + i] = vec4(0.0);
            if (position > 0u) {
                s[c * QUADS + i] = vec4(state[at], state[at + 1u], state[at + 2u], state[at + 3u]);
            }
        }
    }
    if (position == 0u) {
        return;
    }
    uint done = marks[push.marks_at + from];
    [[dont_unroll]] for (uint p = max(done, position - min(position, push.ring)); p < position; p++) {
        uint at = term_of(slot, p);
        uint values = at + push.key_heads * SIZE;
        float g = terms[values + push.heads * push.columns + head];
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            u[c] = terms[values + head * push.columns + column + c];
        }
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint e = at + key_head * SIZE + quad_of(i);
            vec4 k = vec4(terms[e], terms[e + 1u], terms[e + 2u], terms[e + 3u]);
            [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
                update(c, i, g, k);
            }
        }
    }
}

void commit(uint slot, uint position) {
    uint from = column_of(slot);
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            uint at = push.state_at + (from + c) * SIZE + quad_of(i);
            vec4 value = s[c * QUADS + i];
            IF_LIVE {
                state[at] = value.x;
                state[at + 1u] = value.y;
                state[at + 2u] = value.z;
                state[at + 3u] = value.w;
            }
        }
        if (WHERE_LIVE(own == 0u)) {
            marks[push.marks_at + from + c] = position;
        }
    }
}

float total(vec4 parts) {
    precise float sum = (parts.x + parts.y) + (parts.z + parts.w);
    return reduce_lanes(sum, LANES);
}

void take(uint row, uint slot, uint position) {
    uint from = push.x_at + row * push.x_stride;
    uint q_at = from + push.q_from + key_head * SIZE;
    uint k_at = from + push.k_from + key_head * SIZE;
    uint v_at = from + push.v_from + head * push.columns + column;
    uint gate = row * push.gate_stride + head / push.gates * push.gate_jump + head % push.gates;
    precise float rate = softplus(alpha[push.alpha_at + gate] + shift[push.shift_at + head]);
    precise float g = exp(decay[push.decay_at + head] * rate);
    if (DELTA == 1u) {
        vec4 seen[COLUMNS];
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            seen[c] = vec4(0.0);
        }
        [[unroll]] for (uint i = 0u; i < QUADS; i++) {
            vec4 k = x_load(k_at + quad_of(i));
            [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
                seen[c] = fma(s[c * QUADS + i], k, seen[c]);
            }
        }
        float share = logistic(beta[push.beta_at + gate]);
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            precise float old = g * total(seen[c]);
            precise float delta = share * (x[v_at + c] - old);
            u[c] = delta;
        }
    } else {
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            precise float value = rate * x[v_at + c];
            u[c] = value;
        }
    }
    vec4 sums[COLUMNS];
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
        sums[c] = vec4(0.0);
    }
    // One column of one head of those that share a key keeps it.
    bool keeps = WHERE_LIVE(COMMIT != 2u && column == 0u && (push.share == 0u ? head < push.key_heads : head % push.share == 0u));
    uint term = term_of(slot, position);
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        vec4 k = x_load(k_at + quad_of(i));
        vec4 q = x_load(q_at + quad_of(i));
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            update(c, i, g, k);
            sums[c] = fma(s[c * QUADS + i], q, sums[c]);
        }
        if (keeps) {
            uint e = term + key_head * SIZE + quad_of(i);
            terms[e] = k.x;
            terms[e + 1u] = k.y;
            terms[e + 2u] = k.z;
            terms[e + 3u] = k.w;
        }
    }
    uint values = term + push.key_heads * SIZE;
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
        float sum = total(sums[c]);
        if (DELTA == 0u) {
            sum = fma(skip[push.skip_at + head], x[v_at + c], sum);
        }
        if (WHERE_LIVE(own == 0u)) {
            y[push.y_at + (row * push.heads + head) * push.columns + column + c] = sum;
            if (COMMIT != 2u) {
                terms[values + head * push.columns + column + c] = u[c];
            }
        }
    }
    if (WHERE_LIVE(COMMIT != 2u && own == 0u && column == 0u)) {
        terms[values + push.heads * push.columns + head] = g;
    }
}

void main() {
    uint lane = LANE;
    head = gl_WorkGroupID.y;
    column = (gl_WorkGroupID.x * (SG / LANES) + lane / LANES) * COLUMNS;
    own = lane % LANES;
#ifdef WAY_SAFE
    live = column < push.columns;
    column = min(column, push.columns - COLUMNS);
    if (head >= push.heads) {
        return;
    }
#else
    if (head >= push.heads || column >= push.columns) {
        return;
    }
#endif
    key_head = push.share == 0u ? head % push.key_heads : head / push.share;
    uint slot = 0u;
    uint position = 0u;
    [[dont_unroll]] for (uint row = 0u; row < push.row_count; row++) {
        uint other = rows[(push.rows_at >> 3u) + row].sampler_index;
        if (row == 0u || other != slot) {
            if (COMMIT == 2u && row > 0u) {
                commit(slot, position);
            }
            slot = other;
            position = rows[(push.rows_at >> 3u) + row].position;
            begin(slot, position);
            if (COMMIT == 1u) {
                commit(slot, position);
            }
        }
        take(row, slot, position);
        position++;
    }
    if (COMMIT == 2u) {
        commit(slot, position);
    }
}
