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

impl Touches {
    fn conflicts(&self, next: &Touches) -> bool {
        let hits = |ranges: &[Range], range: &Range| ranges.iter().any(|other| other.overlaps(range));
        next.reads.iter().any(|r| hits(&self.writes, r))
            || next.writes.iter().any(|w| hits(&self.writes, w) || hits(&self.reads, w))
    }

    fn extend(&mut self, other: &Touches) {
        self.reads.extend_from_slice(&other.reads);
        self.writes.extend_from_slice(&other.writes);
    }
}

/// For each command, whether a barrier must stand before it: it reads what an unfinished command wrote, or writes
/// what an unfinished command reads or writes. A barrier finishes everything before it.
pub(crate) fn barriers(commands: &[Touches]) -> Vec<bool> {
    let mut open = Touches::default();
    commands
        .iter()
        .map(|command| {
            let needed = open.conflicts(command);
            if needed {
                open = Touches::default();
            }
            open.extend(command);
            needed
        })
        .collect()
}

/// What a part of a submission touches before its first barrier and after its last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edges {
    enters: Touches,
    leaves: Touches,
    /// It has a barrier, which finishes everything before the part as well.
    closes: bool,
}

/// The edges of a part whose commands have these barriers.
pub(crate) fn edges(commands: &[Touches], barriers: &[bool]) -> Edges {
    let mut edges = Edges::default();
    for (command, &barrier) in commands.iter().zip(barriers) {
        if barrier {
            edges.closes = true;
            edges.leaves = Touches::default();
        }
        if !edges.closes {
            edges.enters.extend(command);
        }
        edges.leaves.extend(command);
    }
    edges
}

/// For each part of one submission, whether a barrier must stand before it.
pub(crate) fn between(parts: &[&Edges]) -> Vec<bool> {
    let mut open = Touches::default();
    parts
        .iter()
        .map(|part| {
            let needed = open.conflicts(&part.enters);
            if needed || part.closes {
                open = Touches::default();
            }
            open.extend(&part.leaves);
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

    #[test]
    fn parts_are_fenced_by_their_edges() {
        let (a, b, c) = (range(1, 0, 16), range(1, 16, 32), range(1, 32, 48));
        let part = |commands: &[Touches]| edges(commands, &barriers(commands));
        let writes_a = part(&[touch(&[], &[a])]);
        let reads_a = part(&[touch(&[a], &[b])]);
        let elsewhere = part(&[touch(&[], &[c])]);
        assert_eq!(between(&[&writes_a, &reads_a]), [false, true]);
        assert_eq!(between(&[&writes_a, &elsewhere, &reads_a]), [false, false, true]);
        assert_eq!(between(&[&writes_a, &elsewhere]), [false, false]);
        // A barrier inside the middle part finishes the first one too.
        let closing = part(&[touch(&[], &[c]), touch(&[c], &[])]);
        assert_eq!(between(&[&writes_a, &closing, &reads_a]), [false, false, false]);
        // What follows a part's own barrier is not an entry.
        let late = part(&[touch(&[], &[c]), touch(&[c, a], &[])]);
        assert_eq!(between(&[&writes_a, &late]), [false, false]);
    }
}
