// Loads of four neighbours that may reach past the end of a row; the missing ones are zero.

// Defines `vec4 name(uint at, uint left)` for a float array: `left` elements of the row remain at index `at`.
#define QUAD_LOADER(name, array)                                                    \
    vec4 name(uint at, uint left) {                                                 \
        if (left >= 4u) {                                                           \
            return vec4(array[at], array[at + 1u], array[at + 2u], array[at + 3u]); \
        }                                                                           \
        vec4 value = vec4(0.0);                                                     \
        [[dont_unroll]] for (uint c = 0u; c < left; c++) {                          \
            value[c] = array[at + c];                                               \
        }                                                                           \
        return value;                                                               \
    }
