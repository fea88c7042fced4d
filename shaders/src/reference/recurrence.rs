//! The state of a recurrent layer over the rows of a step.

use vkllm_runtime::{Call, Words};

use crate::ops::recurrence::Push;

/// The update of a row: key, what is added per column, and decay.
struct Term {
    k: Vec<f32>,
    u: Vec<f32>,
    g: f32,
}

/// One value head's state, columns of `size` elements, rounded to f32 after every row.
struct State {
    size: usize,
    s: Vec<f32>,
}

impl State {
    fn apply(&mut self, term: &Term) {
        for (column, u) in self.s.chunks_exact_mut(self.size).zip(&term.u) {
            for (s, k) in column.iter_mut().zip(&term.k) {
                *s = (f64::from(*k) * f64::from(*u) + f64::from(term.g * *s)) as f32;
            }
        }
    }

    fn times(&self, column: usize, x: &[f32]) -> f64 {
        let s = &self.s[column * self.size..][..self.size];
        s.iter().zip(x).map(|(s, x)| f64::from(*s) * f64::from(*x)).sum()
    }
}

fn load(words: Words<'_>, at: usize, len: usize) -> Vec<f32> {
    (at..at + len).map(|i| words.f32(i)).collect()
}

fn store(words: Words<'_>, at: usize, values: &[f32]) {
    values.iter().enumerate().for_each(|(i, value)| words.set_f32(at + i, *value));
}

fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// S = g·S + k·u, y = Sᵀq, head by head, from the state before the first row and the terms that were accepted since.
pub fn recurrence(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let (size, commit, ring) = (4 * spec("QUADS") * spec("LANES"), spec("COMMIT"), push.ring as usize);
    let (heads, keys, columns) = (push.heads as usize, push.key_heads as usize, push.columns as usize);
    let (x, rows, terms) = (call.arg("x"), call.arg("rows"), call.arg("terms"));
    let (states, marks) = (call.arg("state"), call.arg("marks"));
    let term_words = keys * size + heads * (columns + 1);
    let place = |slot: usize, position: usize| (slot * ring + position % ring) * term_words;
    let row_of = |row: usize| (rows.u32(row * 8 + 4) as usize, rows.u32(row * 8 + 1) as usize);
    for head in 0..heads {
        let share = push.share as usize;
        let key = head.checked_div(share).unwrap_or(head % keys);
        let keeps_key = if share == 0 { head < keys } else { head % share == 0 };
        let first = |slot: usize| (slot * heads + head) * columns;
        let mut state = State { size, s: vec![0.0; columns * size] };
        let (mut slot, mut position) = (usize::MAX, 0);
        let save = |state: &State, slot: usize, position: usize| {
            store(states, first(slot) * size, &state.s);
            (0..columns).for_each(|c| marks.set_u32(first(slot) + c, position as u32));
        };
        for row in 0..push.row_count as usize {
            if row_of(row).0 != slot {
                if commit == 2 && row > 0 {
                    save(&state, slot, position);
                }
                (slot, position) = row_of(row);
                state.s.fill(0.0);
                if position > 0 {
                    state.s = load(states, first(slot) * size, columns * size);
                    let done = marks.u32(first(slot)) as usize;
                    for p in done.max(position.saturating_sub(ring))..position {
                        let at = place(slot, p);
                        let values = at + keys * size;
                        state.apply(&Term {
                            k: load(terms, at + key * size, size),
                            u: load(terms, values + head * columns, columns),
                            g: terms.f32(values + heads * columns + head),
                        });
                    }
                }
                if commit == 1 {
                    save(&state, slot, position);
                }
            }
            let from = row * push.x_stride as usize;
            let q = load(x, from + push.q_from as usize + key * size, size);
            let k = load(x, from + push.k_from as usize + key * size, size);
            let v = load(x, from + push.v_from as usize + head * columns, columns);
            let gates = push.gates as usize;
            let gate =
                row * push.gate_stride as usize + head / gates * push.gate_jump as usize + head % gates;
            let shifted = call.arg("alpha").f32(gate) + call.arg("shift").f32(head);
            let rate = softplus(f64::from(shifted));
            let g = (f64::from(call.arg("decay").f32(head)) * rate).exp() as f32;
            let delta = spec("DELTA") == 1;
            let u = if delta {
                let share = 1.0 / (1.0 + f64::from(-call.arg("beta").f32(gate)).exp());
                let new = |(c, v): (usize, &f32)| share * (f64::from(*v) - f64::from(g) * state.times(c, &k));
                v.iter().enumerate().map(|pair| new(pair) as f32).collect()
            } else {
                v.iter().map(|v| (rate * f64::from(*v)) as f32).collect()
            };
            let term = Term { k, u, g };
            state.apply(&term);
            for (c, v) in v.iter().enumerate() {
                let skip = if delta { 0.0 } else { f64::from(call.arg("skip").f32(head)) };
                let y = state.times(c, &q) + skip * f64::from(*v);
                call.arg("y").set_f32((row * heads + head) * columns + c, y as f32);
            }
            if commit != 2 {
                let at = place(slot, position);
                let values = at + keys * size;
                if keeps_key {
                    store(terms, at + key * size, &term.k);
                }
                store(terms, values + head * columns, &term.u);
                terms.set_f32(values + heads * columns + head, g);
            }
            position += 1;
        }
        if commit == 2 && push.row_count > 0 {
            save(&state, slot, position);
        }
    }
}
