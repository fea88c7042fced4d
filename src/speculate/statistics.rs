//! What came of drafting, round by round and in total: counts, lengths, device time, and the speed they made.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Decision, METHODS, MOST_HISTORY, Method, Round};

/// Counts of one method's drafts.
#[derive(Clone, Debug, PartialEq)]
struct Tally {
    rounds: u64,
    drafted: u64,
    accepted: u64,
}

/// Device time by what it was spent on. Rounds without known times count for none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Seconds {
    pub catch_up: f64,
    pub draft: f64,
    pub verify: f64,
    pub accept: f64,
    pub idle: f64,
}

/// Counts since a session began, or of several sessions together.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// By [`Method::index`].
    methods: Vec<Tally>,
    rounds: u64,
    tokens: u64,
    /// By position: tokens whose predecessors were accepted, and those of them that were accepted themselves.
    tested: [u64; MOST_HISTORY],
    accepted: [u64; MOST_HISTORY],
    /// Rounds that drafted, by accepted tokens and by tokens asked for.
    lengths: [u64; MOST_HISTORY + 1],
    asked: [u64; MOST_HISTORY + 1],
    catch_up_rows: u64,
    seconds: Seconds,
    wall: f64,
    /// Time of rounds, and time that plain decoding would have taken for their tokens, where both are known.
    took: f64,
    plain: f64,
    /// The same as the governor expected it, in plain steps.
    expected_cost: f64,
    expected_tokens: f64,
}

impl Default for Statistics {
    fn default() -> Self {
        Statistics {
            methods: vec![Tally { rounds: 0, drafted: 0, accepted: 0 }; METHODS.len()],
            rounds: 0,
            tokens: 0,
            tested: [0; MOST_HISTORY],
            accepted: [0; MOST_HISTORY],
            lengths: [0; MOST_HISTORY + 1],
            asked: [0; MOST_HISTORY + 1],
            catch_up_rows: 0,
            seconds: Seconds::default(),
            wall: 0.0,
            took: 0.0,
            plain: 0.0,
            expected_cost: 0.0,
            expected_tokens: 0.0,
        }
    }
}

fn quotient(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

impl Statistics {
    /// Counts a round and what the governor expected of it.
    pub fn add(&mut self, round: &Round, decision: &Decision) {
        self.rounds += 1;
        self.tokens += round.tokens() as u64;
        if let Some(method) = round.method {
            let tally = &mut self.methods[method.index()];
            tally.rounds += 1;
            tally.drafted += round.drafted as u64;
            tally.accepted += round.accepted as u64;
            for i in 0..round.drafted.min(round.accepted + 1).min(MOST_HISTORY) {
                self.tested[i] += 1;
                self.accepted[i] += u64::from(i < round.accepted);
            }
            self.lengths[round.accepted.min(MOST_HISTORY)] += 1;
            self.asked[round.asked.min(MOST_HISTORY)] += 1;
            self.catch_up_rows += round.catch_up as u64;
        }
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        self.seconds.catch_up += seconds(round.times.catch_up);
        self.seconds.draft += seconds(round.times.draft);
        self.seconds.verify += seconds(round.times.verify);
        self.seconds.accept += seconds(round.times.accept);
        self.seconds.idle += seconds(round.times.idle);
        self.wall += round.wall.as_secs_f64();
        // A plain round took what it takes; only drafts are held against an estimate of that.
        let plain = |time| match round.method {
            None => Some(time),
            Some(_) => decision.plain.map(|plain| plain * round.tokens() as u32),
        };
        if let Some((time, plain)) = round.time().and_then(|time| Some((time, plain(time)?))) {
            self.took += time.as_secs_f64();
            self.plain += plain.as_secs_f64();
        }
        self.expected_cost += decision.cost;
        self.expected_tokens += decision.tokens;
    }

    /// Adds the counts of another session.
    pub fn merge(&mut self, other: &Statistics) {
        for (mine, theirs) in self.methods.iter_mut().zip(&other.methods) {
            mine.rounds += theirs.rounds;
            mine.drafted += theirs.drafted;
            mine.accepted += theirs.accepted;
        }
        let arrays = [
            (&mut self.tested[..], &other.tested[..]),
            (&mut self.accepted[..], &other.accepted[..]),
            (&mut self.lengths[..], &other.lengths[..]),
            (&mut self.asked[..], &other.asked[..]),
        ];
        for (mine, theirs) in arrays {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.rounds += other.rounds;
        self.tokens += other.tokens;
        self.catch_up_rows += other.catch_up_rows;
        self.seconds.catch_up += other.seconds.catch_up;
        self.seconds.draft += other.seconds.draft;
        self.seconds.verify += other.seconds.verify;
        self.seconds.accept += other.seconds.accept;
        self.seconds.idle += other.seconds.idle;
        self.wall += other.wall;
        self.took += other.took;
        self.plain += other.plain;
        self.expected_cost += other.expected_cost;
        self.expected_tokens += other.expected_tokens;
    }

    /// All rounds, plain ones included.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Rounds that drafted.
    pub fn drafting_rounds(&self) -> u64 {
        self.methods.iter().map(|tally| tally.rounds).sum()
    }

    /// Tokens that were committed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens that were drafted and verified.
    pub fn drafted(&self) -> u64 {
        self.methods.iter().map(|tally| tally.drafted).sum()
    }

    /// Drafted tokens that were accepted.
    pub fn accepted(&self) -> u64 {
        self.methods.iter().map(|tally| tally.accepted).sum()
    }

    /// Accepted tokens over drafted ones.
    pub fn acceptance(&self) -> Option<f64> {
        quotient(self.accepted() as f64, self.drafted() as f64)
    }

    /// Tokens that a round that drafted committed, on average: its accepted tokens and one.
    pub fn mean_length(&self) -> Option<f64> {
        quotient(self.accepted() as f64, self.drafting_rounds() as f64).map(|mean| mean + 1.0)
    }

    /// For each position: tokens there whose predecessors were accepted, and how many of those were accepted.
    pub fn by_position(&self) -> Vec<(u64, u64)> {
        let last = self.tested.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        self.tested.iter().copied().zip(self.accepted).take(last).collect()
    }

    /// Rounds that drafted by the number of tokens accepted; only numbers that occurred.
    pub fn histogram(&self) -> BTreeMap<usize, u64> {
        self.lengths.iter().copied().enumerate().filter(|&(_, count)| count > 0).collect()
    }

    /// Device time; `None` when none is known.
    pub fn seconds(&self) -> Option<Seconds> {
        (self.seconds.verify > 0.0).then_some(self.seconds)
    }

    /// Time that plain decoding would have taken over the time taken, by measured plain rounds.
    pub fn speed_up(&self) -> Option<f64> {
        quotient(self.plain, self.took)
    }

    /// The same as the governor expected.
    pub fn expected_speed_up(&self) -> Option<f64> {
        quotient(self.expected_tokens, self.expected_cost)
    }

    /// The record that AIPerf and other tools read, with details of this engine.
    pub fn record(&self) -> Record {
        let of = |(index, tally): (usize, &Tally)| {
            let method = Method::all().nth(index)?;
            (tally.rounds > 0).then(|| MethodRecord {
                method: method.name(),
                rounds: tally.rounds,
                drafted: tally.drafted,
                accepted: tally.accepted,
            })
        };
        Record {
            engine: "vkllm",
            mean_acceptance_length: self.mean_length().unwrap_or(1.0),
            draft_acceptance_rate: self.acceptance().unwrap_or(0.0),
            acceptance_histogram: self.histogram(),
            num_accepted_draft_tokens: self.accepted(),
            num_draft_tokens: self.drafted(),
            num_spec_steps: self.drafting_rounds(),
            num_spec_tokens: self.asked.iter().rposition(|&count| count > 0).unwrap_or(0),
            completion_tokens: self.tokens,
            detail: Detail {
                plain_rounds: self.rounds - self.drafting_rounds(),
                methods: self.methods.iter().enumerate().filter_map(of).collect(),
                tested_by_position: self.by_position().iter().map(|&(tested, _)| tested).collect(),
                accepted_by_position: self.by_position().iter().map(|&(_, accepted)| accepted).collect(),
                asked_histogram: self
                    .asked
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|&(_, count)| count > 0)
                    .collect(),
                catch_up_rows: self.catch_up_rows,
                device_seconds: self.seconds(),
                wall_seconds: self.wall,
                speed_up: self.speed_up(),
                expected_speed_up: self.expected_speed_up(),
            },
        }
    }
}

/// Acceptance in the form that AIPerf reads, whatever the engine: names and meanings are its `SpecDecodeAcceptanceRecord`'s.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Record {
    pub engine: &'static str,
    /// Tokens of a round that drafted, the one that is always committed included.
    pub mean_acceptance_length: f64,
    pub draft_acceptance_rate: f64,
    /// Rounds by accepted tokens.
    pub acceptance_histogram: BTreeMap<usize, u64>,
    pub num_accepted_draft_tokens: u64,
    pub num_draft_tokens: u64,
    /// Rounds that drafted.
    pub num_spec_steps: u64,
    /// Most tokens asked for in a round.
    pub num_spec_tokens: usize,
    pub completion_tokens: u64,
    pub detail: Detail,
}

/// What a [`Record`] holds beyond AIPerf's fields.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Detail {
    pub plain_rounds: u64,
    pub methods: Vec<MethodRecord>,
    /// Tokens whose predecessors were accepted, by position.
    pub tested_by_position: Vec<u64>,
    pub accepted_by_position: Vec<u64>,
    /// Rounds by tokens asked for.
    pub asked_histogram: BTreeMap<usize, u64>,
    pub catch_up_rows: u64,
    pub device_seconds: Option<Seconds>,
    pub wall_seconds: f64,
    pub speed_up: Option<f64>,
    pub expected_speed_up: Option<f64>,
}

/// One method's share of a [`Record`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct MethodRecord {
    pub method: &'static str,
    pub rounds: u64,
    pub drafted: u64,
    pub accepted: u64,
}

/// Columns of the text form.
const COLUMNS: usize = 60;

/// Writes a name and items, as many in a line as fit.
fn wrapped(f: &mut fmt::Formatter<'_>, name: &str, items: &[String]) -> fmt::Result {
    let mut column = COLUMNS;
    for (index, item) in items.iter().enumerate() {
        if column + 1 + item.len() > COLUMNS {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{:<12}", if index > 0 { "" } else { name })?;
            column = 12;
        }
        write!(f, " {item}")?;
        column += 1 + item.len();
    }
    writeln!(f)
}

/// A table for people, at most 60 columns wide.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |a: u64, b: u64| quotient(a as f64 * 100.0, b as f64).unwrap_or(0.0);
        writeln!(
            f,
            "speculation  {} tokens in {} rounds, {} of them plain",
            self.tokens,
            self.rounds,
            self.rounds - self.drafting_rounds()
        )?;
        if self.drafting_rounds() > 0 {
            writeln!(
                f,
                "{:<12} {:>7} {:>8} {:>8} {:>7} {:>6}",
                "method", "rounds", "drafted", "accepted", "rate", "length"
            )?;
            for (tally, method) in
                self.methods.iter().zip(Method::all()).filter(|(tally, _)| tally.rounds > 0)
            {
                writeln!(
                    f,
                    "{:<12} {:>7} {:>8} {:>8} {:>5.1} % {:>6.2}",
                    method.name(),
                    tally.rounds,
                    tally.drafted,
                    tally.accepted,
                    percent(tally.accepted, tally.drafted),
                    1.0 + tally.accepted as f64 / tally.rounds as f64,
                )?;
            }
            let positions = self.by_position();
            let rates: Vec<_> =
                positions.iter().map(|&(all, yes)| format!("{:.0}", percent(yes, all))).collect();
            wrapped(f, "% by place", &rates)?;
            let lengths: Vec<_> =
                self.histogram().iter().map(|(length, count)| format!("{length}:{count}")).collect();
            wrapped(f, "accepted", &lengths)?;
        }
        match self.seconds() {
            None => wrapped(f, "device", &["no times are known".into()])?,
            Some(s) => {
                let parts = [
                    ("draft", s.draft),
                    ("verify", s.verify),
                    ("accept", s.accept),
                    ("idle", s.idle),
                    ("catch up", s.catch_up),
                ];
                let parts: Vec<_> = parts.iter().map(|(name, s)| format!("{name} {:.1}", s * 1e3)).collect();
                wrapped(f, "device ms", &parts)?;
            }
        }
        let times =
            |value: Option<f64>| value.map_or_else(|| "not known".into(), |value| format!("{value:.2}"));
        wrapped(
            f,
            "speed-up",
            &[
                format!("measured {},", times(self.speed_up())),
                format!("expected {}", times(self.expected_speed_up())),
            ],
        )
    }
}
