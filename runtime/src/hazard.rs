//! Where barriers go: a pure function of the byte ranges that commands read and write. Nobody places one by hand.

/// A touched byte range: memory key, start, end (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) memory: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.memory == other.memory && self.start < other.end && other.start < self.end
    }
}

/// What one command reads and writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    pub(crate) reads: Vec<Range>,
    pub(crate) writes: Vec<Range>,
}

/// For each command, whether a barrier must stand before it: it reads what an unfinished command wrote, or writes
/// what an unfinished command reads or writes. A barrier finishes everything before it.
pub(crate) fn barriers(commands: &[Touches]) -> Vec<bool> {
    let mut open = Touches::default();
    let hits = |ranges: &[Range], range: &Range| ranges.iter().any(|other| other.overlaps(range));
    commands
        .iter()
        .map(|command| {
            let needed = command.reads.iter().any(|r| hits(&open.writes, r))
                || command.writes.iter().any(|w| hits(&open.writes, w) || hits(&open.reads, w));
            if needed {
                open = Touches::default();
            }
            open.reads.extend_from_slice(&command.reads);
            open.writes.extend_from_slice(&command.writes);
            needed
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(memory: usize, start: u64, end: u64) -> Range {
        Range { memory, start, end }
    }

    fn touch(reads: &[Range], writes: &[Range]) -> Touches {
        Touches { reads: reads.to_vec(), writes: writes.to_vec() }
    }

    #[test]
    fn read_after_write_needs_one() {
        let a = range(1, 0, 16);
        assert_eq!(barriers(&[touch(&[], &[a]), touch(&[a], &[])]), [false, true]);
    }

    #[test]
    fn write_after_read_and_after_write_need_one() {
        let a = range(1, 0, 16);
        assert_eq!(barriers(&[touch(&[a], &[]), touch(&[], &[a])]), [false, true]);
        assert_eq!(barriers(&[touch(&[], &[a]), touch(&[], &[a])]), [false, true]);
    }

    #[test]
    fn disjoint_ranges_and_shared_reads_need_none() {
        let (a, b) = (range(1, 0, 16), range(1, 16, 32));
        assert_eq!(barriers(&[touch(&[], &[a]), touch(&[], &[b])]), [false, false]);
        assert_eq!(barriers(&[touch(&[a], &[]), touch(&[a], &[b])]), [false, false]);
        assert_eq!(barriers(&[touch(&[], &[a]), touch(&[range(2, 0, 16)], &[])]), [false, false]);
    }

    #[test]
    fn one_barrier_serves_all_before_it() {
        let (a, b, c) = (range(1, 0, 16), range(1, 16, 32), range(1, 32, 48));
        let list = [touch(&[], &[a]), touch(&[], &[b]), touch(&[a], &[c]), touch(&[b], &[])];
        assert_eq!(barriers(&list), [false, false, true, false]);
    }
}
