//! Where transient buffers lie in the arena: a pure function of sizes and lifetimes.

/// A transient's size in bytes and the first and last command that touch it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) size: u64,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// Offsets of the transients and the arena's size. Two transients share bytes only when their lifetimes are apart.
/// Largest first, each at the lowest offset that is free for its whole life.
pub(crate) fn place(lifetimes: &[Option<Lifetime>], align: u64) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..lifetimes.len()).filter(|&i| lifetimes[i].is_some()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].map_or(0, |l| l.size)), i));
    let mut offsets = vec![0; lifetimes.len()];
    let mut placed: Vec<(u64, u64, Lifetime)> = Vec::new();
    let mut arena = 0;
    for index in order {
        let Some(life) = lifetimes[index] else { continue };
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(_, _, other)| life.first <= other.last && other.first <= life.last)
            .map(|&(start, end, _)| (start, end))
            .collect();
        busy.sort_unstable();
        let mut at = 0u64;
        for (start, end) in busy {
            if at + life.size <= start {
                break;
            }
            at = at.max(end.next_multiple_of(align));
        }
        offsets[index] = at;
        arena = arena.max(at + life.size);
        placed.push((at, at + life.size, life));
    }
    (offsets, arena)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(size: u64, first: usize, last: usize) -> Option<Lifetime> {
        Some(Lifetime { size, first, last })
    }

    #[test]
    fn lives_apart_share_bytes() {
        let (offsets, arena) = place(&[life(100, 0, 1), life(100, 2, 3), life(50, 1, 2)], 64);
        assert_eq!(offsets[0], offsets[1]);
        assert_eq!(offsets[2], 128);
        assert_eq!(arena, 178);
    }

    #[test]
    fn overlapping_lives_never_share_bytes() {
        // A fixed-seed generator: 200 random sets of 40 lifetimes.
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let lives: Vec<_> = (0..40)
                .map(|_| {
                    let first = random(30) as usize;
                    life(1 + random(5000), first, first + random(10) as usize)
                })
                .collect();
            let (offsets, arena) = place(&lives, 256);
            for (i, a) in lives.iter().enumerate() {
                let a = a.unwrap();
                assert_eq!(offsets[i] % 256, 0);
                assert!(offsets[i] + a.size <= arena);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let b = b.unwrap();
                    if a.first <= b.last && b.first <= a.last {
                        assert!(
                            offsets[i] + a.size <= offsets[j] || offsets[j] + b.size <= offsets[i],
                            "{i} and {j} overlap"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn unused_transients_take_nothing() {
        assert_eq!(place(&[None, None], 256), (vec![0, 0], 0));
    }
}
