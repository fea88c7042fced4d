//! Chooses one kernel among those the table offers for an operation, and says why the others were refused.

use std::fmt;

use vkllm_runtime::{Kernel, Need};

/// A kernel together with what a row of the table says about it.
#[derive(Debug)]
pub struct Candidate {
    pub kernel: &'static Kernel,
    /// Specialisation values the row fixes.
    pub spec: &'static [(&'static str, u32)],
    /// Rows of a step it is meant for, both ends included.
    pub rows: (u32, u32),
    /// Subgroup sizes it is meant for, both ends included.
    pub subgroup: (u32, u32),
    /// Order class: candidates of one class agree bit for bit.
    pub class: &'static str,
    pub rank: u32,
    /// Workgroup size baked into the code; 0 in x where the constant `WG` sets it.
    pub local: [u32; 3],
}

impl Candidate {
    /// A value that its row fixes.
    pub fn fixed(&self, name: &str) -> Option<u32> {
        self.spec.iter().find(|(spec, _)| *spec == name).map(|(_, value)| *value)
    }

    /// Invocations of a workgroup, as far as the row or the code fixes them.
    pub fn workgroup(&self) -> u32 {
        self.fixed("WG").unwrap_or_else(|| self.local.map(|size| size.max(1)).iter().product())
    }
}

/// What a kernel is wanted for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Axis values it must have, for example `("FORMAT", "q4_k")`. Axes not named here are free.
    pub axes: &'a [(&'a str, &'a str)],
    /// Rows of the step.
    pub rows: u32,
    /// Subgroup size of the device.
    pub subgroup: u32,
    /// Order class, when it has been chosen already.
    pub class: Option<&'a str>,
    /// Largest workgroup of the device.
    pub max_workgroup: u32,
    /// What the device can do.
    pub has: &'a dyn Fn(Need) -> bool,
    /// Kernels that the device computes wrongly, by name. Where there are some, candidates that are not meant for the
    /// step or the subgroup size but can do it stand in for them.
    pub avoid: &'a [String],
}

/// Why a candidate was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kernel's name.
    pub kernel: &'static str,
    pub rank: u32,
    pub why: Why,
}

/// The first reason that excludes a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    Axis {
        axis: String,
        has: &'static str,
        wanted: String,
    },
    Class {
        has: &'static str,
        wanted: String,
    },
    Rows {
        meant: (u32, u32),
        wanted: u32,
    },
    Subgroup {
        meant: (u32, u32),
        device: u32,
    },
    Workgroup {
        has: u32,
        device: u32,
    },
    Needs(Vec<Need>),
    /// The device computes it wrongly.
    Avoided,
    /// It fits, and another of a higher or equal rank was taken.
    Outranked {
        by: &'static str,
        rank: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rank {}) ", self.kernel, self.rank)?;
        match &self.why {
            Why::Axis { axis, has: "", wanted } => write!(f, "has no axis {axis}, {wanted} is wanted"),
            Why::Axis { axis, has, wanted } => write!(f, "is for {axis} {has}, {wanted} is wanted"),
            Why::Class { has, wanted } => write!(f, "is of order class {has}, {wanted} is wanted"),
            Why::Rows { meant: (low, u32::MAX), wanted } => {
                write!(f, "is meant for {low} or more rows, the step has {wanted}")
            }
            Why::Rows { meant: (low, high), wanted } => {
                write!(f, "is meant for {low} to {high} rows, the step has {wanted}")
            }
            Why::Subgroup { meant: (low, high), device } => {
                write!(f, "is meant for subgroups of {low} to {high}, the device has {device}")
            }
            Why::Workgroup { has, device } => {
                write!(f, "has workgroups of {has}, the device allows {device}")
            }
            Why::Needs(needs) => {
                let names: Vec<&str> = needs.iter().map(|need| need.name()).collect();
                write!(f, "needs {}, which the device lacks", names.join(", "))
            }
            Why::Avoided => write!(f, "was found to be wrong on this device"),
            Why::Outranked { by, rank } => write!(f, "fits, but {by} has rank {rank}"),
        }
    }
}

/// The candidate of the highest rank among those that fit; of equal ones, the first. Otherwise why each does not.
pub fn select(
    candidates: &'static [Candidate],
    wanted: &Wanted<'_>,
) -> Result<&'static Candidate, Vec<Refusal>> {
    best(candidates, wanted)
        .or_else(|| if wanted.avoid.is_empty() { None } else { stand_in(candidates, wanted) })
        .ok_or_else(|| explain(candidates, wanted).1)
}

/// A candidate that can do what another is meant for: what it is meant for is only what it is fast at.
fn stand_in(candidates: &'static [Candidate], wanted: &Wanted<'_>) -> Option<&'static Candidate> {
    let meant = |why: &Why| matches!(why, Why::Rows { .. } | Why::Subgroup { .. });
    let fits = |candidate: &&Candidate| {
        let at_its_best = Wanted {
            rows: wanted.rows.clamp(candidate.rows.0, candidate.rows.1),
            subgroup: wanted.subgroup.clamp(candidate.subgroup.0, candidate.subgroup.1),
            ..*wanted
        };
        obstacle(candidate, wanted).is_some_and(|why| meant(&why))
            && obstacle(candidate, &at_its_best).is_none()
    };
    candidates.iter().filter(fits).max_by_key(|candidate| candidate.rank)
}

/// The choice without its reasons, which would cost more than the choice.
fn best(candidates: &'static [Candidate], wanted: &Wanted<'_>) -> Option<&'static Candidate> {
    let mut chosen: Option<&'static Candidate> = None;
    for candidate in candidates {
        let alike = wanted.axes.iter().all(|&(axis, value)| candidate.kernel.axis(axis) == value)
            && wanted.class.is_none_or(|class| class == candidate.class);
        if alike
            && chosen.is_none_or(|best| candidate.rank > best.rank)
            && obstacle(candidate, wanted).is_none()
        {
            chosen = Some(candidate);
        }
    }
    chosen
}

/// Like [`select`], and why every other candidate was not taken.
pub fn explain(
    candidates: &'static [Candidate],
    wanted: &Wanted<'_>,
) -> (Option<&'static Candidate>, Vec<Refusal>) {
    let chosen = best(candidates, wanted);
    let mut refusals = Vec::new();
    for candidate in candidates {
        let outranked = || {
            let best = chosen.filter(|best| !std::ptr::eq(*best, candidate))?;
            Some(Why::Outranked { by: best.kernel.name, rank: best.rank })
        };
        if let Some(why) = obstacle(candidate, wanted).or_else(outranked) {
            refusals.push(Refusal { kernel: candidate.kernel.name, rank: candidate.rank, why });
        }
    }
    (chosen, refusals)
}

fn obstacle(candidate: &Candidate, wanted: &Wanted<'_>) -> Option<Why> {
    for &(axis, value) in wanted.axes {
        let has = candidate.kernel.axis(axis);
        if has != value {
            return Some(Why::Axis { axis: axis.to_owned(), has, wanted: value.to_owned() });
        }
    }
    if let Some(class) = wanted.class.filter(|class| *class != candidate.class) {
        return Some(Why::Class { has: candidate.class, wanted: class.to_owned() });
    }
    if wanted.avoid.iter().any(|name| name == candidate.kernel.name) {
        return Some(Why::Avoided);
    }
    let within = |(low, high): (u32, u32), value: u32| (low..=high).contains(&value);
    if !within(candidate.rows, wanted.rows) {
        return Some(Why::Rows { meant: candidate.rows, wanted: wanted.rows });
    }
    if !within(candidate.subgroup, wanted.subgroup) {
        return Some(Why::Subgroup { meant: candidate.subgroup, device: wanted.subgroup });
    }
    let has = candidate.workgroup();
    if has > wanted.max_workgroup {
        return Some(Why::Workgroup { has, device: wanted.max_workgroup });
    }
    let lacking: Vec<Need> =
        candidate.kernel.needs.iter().copied().filter(|need| !(wanted.has)(*need)).collect();
    if lacking.is_empty() { None } else { Some(Why::Needs(lacking)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn kernel(
        name: &'static str,
        format: &'static [(&'static str, &'static str)],
        needs: &'static [Need],
    ) -> Kernel {
        Kernel {
            name,
            op: "linear",
            axes: format,
            spirv: &[],
            hash: 0,
            bindings: &[],
            push_size: 0,
            specs: &[],
            needs,
            meaning: |_| {},
        }
    }

    const Q8: &[(&str, &str)] = &[("FORMAT", "q8_0")];
    static PLAIN: Kernel = kernel("linear.matvec.q8_0", Q8, &[]);
    static DOT: Kernel = kernel("linear.dot.q8_0", Q8, &[Need::IntegerDot]);
    static TILED: Kernel = kernel("linear.tiled.q4_k", &[("FORMAT", "q4_k")], &[]);

    const fn candidate(
        kernel: &'static Kernel,
        rows: (u32, u32),
        class: &'static str,
        rank: u32,
    ) -> Candidate {
        Candidate { kernel, spec: &[("LANES", 4)], rows, subgroup: (8, 64), class, rank, local: [0, 1, 1] }
    }

    static TABLE: &[Candidate] = &[
        candidate(&PLAIN, (1, 16), "float", 10),
        candidate(&DOT, (1, 16), "int8", 20),
        candidate(&TILED, (17, u32::MAX), "prefill", 10),
    ];

    const ALL: &dyn Fn(Need) -> bool = &|_| true;

    fn wanted<'a>() -> Wanted<'a> {
        Wanted { axes: Q8, rows: 1, subgroup: 32, class: None, max_workgroup: 128, has: ALL, avoid: &[] }
    }

    #[test]
    fn the_highest_rank_that_fits_wins() {
        assert_eq!(select(TABLE, &wanted()).unwrap().kernel.name, "linear.dot.q8_0");
        let none = Wanted { has: &|_| false, ..wanted() };
        assert_eq!(select(TABLE, &none).unwrap().kernel.name, "linear.matvec.q8_0");
        let float = Wanted { class: Some("float"), ..wanted() };
        let chosen = select(TABLE, &float).unwrap();
        assert_eq!(
            (chosen.kernel.name, chosen.fixed("LANES"), chosen.fixed("SG")),
            ("linear.matvec.q8_0", Some(4), None)
        );
    }

    #[test]
    fn refusals_say_why() {
        let words =
            |wanted: &Wanted<'_>| explain(TABLE, wanted).1.iter().map(Refusal::to_string).collect::<Vec<_>>();
        assert_eq!(
            words(&wanted()),
            [
                "linear.matvec.q8_0 (rank 10) fits, but linear.dot.q8_0 has rank 20",
                "linear.tiled.q4_k (rank 10) is for FORMAT q4_k, q8_0 is wanted",
            ]
        );
        let many = Wanted { axes: &[], rows: 40, class: Some("int8"), has: &|_| false, ..wanted() };
        assert_eq!(
            words(&many),
            [
                "linear.matvec.q8_0 (rank 10) is of order class float, int8 is wanted",
                "linear.dot.q8_0 (rank 20) is meant for 1 to 16 rows, the step has 40",
                "linear.tiled.q4_k (rank 10) is of order class prefill, int8 is wanted",
            ]
        );
        let poor = Wanted { axes: &[("FORMAT", "q8_0")], class: Some("int8"), has: &|_| false, ..wanted() };
        assert_eq!(words(&poor)[1], "linear.dot.q8_0 (rank 20) needs intdot, which the device lacks");
        let narrow = Wanted { axes: &[("ACT", "q8")], subgroup: 4, ..wanted() };
        assert_eq!(words(&narrow)[0], "linear.matvec.q8_0 (rank 10) has no axis ACT, q8 is wanted");
        let narrow = Wanted { axes: &[], subgroup: 4, ..wanted() };
        assert_eq!(
            words(&narrow)[0],
            "linear.matvec.q8_0 (rank 10) is meant for subgroups of 8 to 64, the device has 4"
        );
        assert_eq!(select(TABLE, &narrow).unwrap_err().len(), 3);
    }
}
