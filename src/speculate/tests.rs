//! Every history drafter against the same demands, and each against what it alone promises.

use super::*;
use std::time::Duration;

/// Random tokens, repeatable (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    /// 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn tokens(&mut self, count: usize, vocabulary: u32) -> Vec<u32> {
        (0..count).map(|_| self.below(vocabulary)).collect()
    }
}

fn setting(text: &str) -> Setting {
    Setting::parse_list(text).unwrap().remove(0)
}

fn drafter(text: &str) -> Box<dyn Drafter> {
    setting(text).make().unwrap()
}

fn drafted(drafter: &mut dyn Drafter, history: &[u32], most: usize) -> Vec<u32> {
    let mut out = Vec::new();
    drafter.draft(history, most, &mut out);
    out
}

/// Every history method with its defaults, and with small sizes that match often.
const ALL: &[&str] = &[
    "ngram-simple",
    "ngram-simple:size-n=2:size-m=5",
    "ngram-map-k",
    "ngram-map-k:size-n=2:size-m=64",
    "ngram-map-k:size-n=2:min-hits=3",
    "ngram-mod",
    "ngram-mod:n-match=3:n-min=1",
    "ngram-cache",
    "ngram-cache:n-min=2:n-max=3:p-min=0",
];

#[test]
fn the_list_of_tests_names_every_history_method() {
    for method in Method::all().filter(|m| m.is_history()) {
        assert!(ALL.contains(&method.name()), "{method}");
        assert!(method.row().most <= MOST_HISTORY);
    }
    assert!(!Method::DRAFT_MODEL.is_history() && Method::DRAFT_MODEL.name() == "draft-model");
    assert!(Setting::new(Method::DRAFT_MODEL).make().is_none());
}

#[test]
fn reading_token_by_token_is_reading_at_once() {
    for name in ALL {
        for seed in 0..20 {
            let history = Random(seed).tokens(300, 3);
            let (mut slow, mut fast) = (drafter(name), drafter(name));
            slow.begin(&history[..1]);
            for end in 1..history.len() {
                let a = drafted(&mut *slow, &history[..end], 64);
                if end % 50 == 0 {
                    fast.begin(&history[..end]);
                    assert_eq!(a, drafted(&mut *fast, &history[..end], 64), "{name} seed {seed} end {end}");
                }
            }
        }
    }
}

#[test]
fn drafts_are_as_long_as_allowed_and_appended() {
    for name in ALL {
        let history = Random(1).tokens(2000, 2);
        let mut d = drafter(name);
        d.begin(&[]);
        for most in [0, 1, 7, 64] {
            let mut out = vec![77];
            d.draft(&history, most, &mut out);
            assert!(out[0] == 77 && out.len() <= most + 1, "{name} {most}");
        }
        assert!(drafted(&mut *d, &[], 64).is_empty(), "{name}");
    }
}

#[test]
fn a_repetition_is_continued() {
    for name in ALL {
        for period in [1, 5, 100] {
            // Tokens within a period differ, so that even a context of one token has one successor.
            let text: Vec<u32> = (0..600).map(|i| 1000 + i % period).collect();
            let mut d = drafter(name);
            d.begin(&text[..480]);
            let draft = drafted(&mut *d, &text[..480], 64);
            let wanted = setting(name).get("size-m").unwrap_or(64.0) as usize;
            assert_eq!(draft.len(), wanted, "{name} period {period}");
            assert_eq!(draft, text[480..480 + wanted], "{name} period {period}");
        }
    }
}

#[test]
fn random_text_is_left_alone() {
    for name in ALL {
        let history = Random(5).tokens(3000, 100_000);
        let mut d = drafter(name);
        d.begin(&history[..10]);
        let drafts = (10..3000).filter(|&end| !drafted(&mut *d, &history[..end], 64).is_empty()).count();
        // A context of two tokens of 100,000 meets itself by chance once in 10^10 pairs.
        assert!(drafts <= 30, "{name}: {drafts} drafts");
    }
}

#[test]
fn a_shorter_history_is_a_new_beginning() {
    for name in ALL {
        let history = Random(9).tokens(500, 3);
        let (mut rolled, mut fresh) = (drafter(name), drafter(name));
        rolled.begin(&history);
        fresh.begin(&history[..200]);
        for end in [200, 201, 260] {
            assert_eq!(
                drafted(&mut *rolled, &history[..end], 64),
                drafted(&mut *fresh, &history[..end], 64),
                "{name} {end}"
            );
        }
    }
}

#[test]
fn memory_is_taken_once_and_stated() {
    let stated = [
        ("ngram-simple", 1 << 20),
        ("ngram-map-k", 2 << 20),
        ("ngram-mod", 16 << 20),
        ("ngram-cache", 7 << 18),
    ];
    for (name, bytes) in stated {
        let setting = setting(name);
        let mut made = None;
        let taken = allocation_counter::measure(|| made = setting.make());
        assert!((bytes..bytes + 4096).contains(&taken.bytes_total), "{name}: {}", taken.bytes_total);
        let mut d = made.unwrap();
        let history = Random(3).tokens(5000, 2);
        let mut out = Vec::with_capacity(64);
        let used = allocation_counter::measure(|| {
            d.begin(&history[..10]);
            for end in 10..history.len() {
                out.clear();
                d.draft(&history[..end], 64, &mut out);
                d.result(&out, out.len() / 2);
            }
        });
        assert_eq!(used.count_total, 0, "{name}");
    }
}

/// The definition of `ngram-simple`, searched from the end.
fn last_match(history: &[u32], n: usize, m: usize) -> Vec<u32> {
    let suffix = &history[history.len().saturating_sub(n)..];
    let found = (n..history.len()).rev().find(|&at| &history[at - n..at] == suffix);
    let mut out = history.to_vec();
    let Some(at) = found else { return Vec::new() };
    (0..m).for_each(|i| out.push(out[at + i]));
    out.split_off(history.len())
}

#[test]
fn simple_is_the_last_match() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let n = 1 + random.below(5) as usize;
        let vocabulary = 2 + random.below(6);
        let history = random.tokens(200, vocabulary);
        for name in ["ngram-simple", "ngram-map-k"] {
            let mut d = drafter(&format!("{name}:size-n={n}:size-m=9"));
            for end in 1..history.len() {
                let found = drafted(&mut *d, &history[..end], 64);
                assert_eq!(found, last_match(&history[..end], n, 9), "{name} seed {seed} end {end}");
            }
        }
    }
}

#[test]
fn map_k_wants_agreement() {
    let text = [1, 2, 9, 8, 7, 1, 2, 9, 8, 5, 1, 2];
    assert_eq!(drafted(&mut *drafter("ngram-map-k:size-n=2:min-hits=1:size-m=3"), &text, 64), [9, 8, 5]);
    assert_eq!(drafted(&mut *drafter("ngram-map-k:size-n=2:min-hits=2:size-m=3"), &text, 64), [9, 8]);
    assert!(drafted(&mut *drafter("ngram-map-k:size-n=2:min-hits=3"), &text, 64).is_empty());
}

#[test]
fn map_k_drafts_what_was_accepted() {
    let text: Vec<u32> = (0..200).map(|i| i % 40).collect();
    let mut d = drafter("ngram-map-k:size-n=4");
    let first = drafted(&mut *d, &text, 64);
    assert_eq!(first.len(), 48);
    d.result(&first, 3);
    let second = drafted(&mut *d, &text, 64);
    assert_eq!(second.len(), 7);
    d.result(&second, 0);
    let third = drafted(&mut *d, &text, 64);
    assert_eq!(third.len(), 1);
    d.result(&third, 1);
    assert_eq!(drafted(&mut *d, &text, 64).len(), 48);
}

#[test]
fn mod_offers_no_short_draft_unless_the_room_is_short() {
    // A token the pool cannot hold ends what can be followed.
    let text: Vec<u32> = (0..60).chain([u32::MAX]).chain(0..30).collect();
    let mut d = drafter("ngram-mod");
    assert!(drafted(&mut *d, &text, 64).is_empty());
    assert_eq!(drafted(&mut *d, &text, 30), (30..60).collect::<Vec<_>>());
    let mut d = drafter("ngram-mod:n-min=30");
    assert_eq!(drafted(&mut *d, &text, 64), (30..60).collect::<Vec<_>>());
}

#[test]
fn mod_starts_anew_after_bad_rounds() {
    let text: Vec<u32> = (0..300).map(|i| i % 50).collect();
    let mut d = drafter("ngram-mod");
    for _ in 0..5 {
        let draft = drafted(&mut *d, &text, 64);
        assert_eq!(draft.len(), 64);
        d.result(&draft, 15);
    }
    assert!(drafted(&mut *d, &text, 64).is_empty());
}

#[test]
fn mod_forgets_more_than_255_times() {
    let text: Vec<u32> = (0..100).map(|i| i % 30).collect();
    let mut d = drafter("ngram-mod");
    for _ in 0..600 {
        d.begin(&[]);
        assert!(drafted(&mut *d, &text[..26], 64).is_empty());
    }
    assert_eq!(drafted(&mut *d, &text, 64).len(), 64);
}

#[test]
fn cache_prefers_the_likelier() {
    let mut text = Vec::new();
    for i in 0..9 {
        text.extend([100, if i % 3 == 0 { 1 } else { 2 }, 200 + i]);
    }
    text.push(100);
    let mut d = drafter("ngram-cache:n-max=1");
    assert_eq!(drafted(&mut *d, &text, 1), [2]);
    let mut d = drafter("ngram-cache:n-max=1:p-min=0.7");
    assert!(drafted(&mut *d, &text, 1).is_empty());
}

#[test]
fn cache_follows_a_change() {
    let mut d = drafter("ngram-cache:n-max=1");
    let mut text: Vec<u32> = (0..400).flat_map(|_| [1, 2]).collect();
    text.extend((0..800).flat_map(|_| [1, 3]));
    assert_eq!(drafted(&mut *d, &text[..799], 1), [2]);
    assert_eq!(drafted(&mut *d, &text[..2399], 1), [3]);
}

#[test]
fn a_chain_asks_in_order_and_tells_who_drafted() {
    let settings = Setting::parse_list("ngram-simple:size-n=8,draft-model,ngram-cache").unwrap();
    let mut chain = Chain::new(&settings);
    let short: Vec<u32> = vec![1, 2, 3, 9, 1, 2, 3];
    chain.begin(&short);
    let mut out = vec![5];
    assert_eq!(chain.draft(&short, 4, &mut out).map(Method::name), Some("ngram-cache"));
    assert_eq!(out[0], 9);
    chain.result(&out, 1);
    let long: Vec<u32> = (0..40).map(|i| i % 10).collect();
    chain.begin(&long);
    assert_eq!(chain.draft(&long, 64, &mut out).map(Method::name), Some("ngram-simple"));
    assert_eq!(out.len(), 48);
    assert_eq!(chain.draft(&[1, 2], 64, &mut out), None);
    assert!(out.is_empty() && Chain::new(&Setting::parse_list("draft-model").unwrap()).is_empty());
}

#[test]
fn settings_are_checked() {
    let wrong = |text: &str| Setting::parse_list(text).unwrap_err().to_string();
    assert_eq!(
        wrong("ngram"),
        "the drafting method is \"ngram\"; allowed is draft-model, mtp, ngram-simple, ngram-map-k, ngram-mod, ngram-cache"
    );
    assert_eq!(wrong("ngram-simple:x=1"), "a parameter of ngram-simple is \"x\"; allowed is size-n, size-m");
    assert_eq!(wrong("ngram-simple:size-n=65"), "size-n of ngram-simple is \"65\"; allowed is 1 to 64");
    assert_eq!(wrong("ngram-simple:size-n=1.5"), "size-n of ngram-simple is \"1.5\"; allowed is 1 to 64");
    assert_eq!(wrong("ngram-simple:size-n"), "size-n of ngram-simple is \"\"; allowed is 1 to 64");
    assert_eq!(wrong("draft-model:p-min=nan"), "p-min of draft-model is \"nan\"; allowed is 0 to 1");
    assert_eq!(
        wrong("ngram-mod,ngram-mod"),
        "the list of drafting methods is ngram-mod twice; allowed is each once"
    );
    let list = Setting::parse_list("ngram-mod:n-min=8:n-max=16, draft-model:p-min=0.75").unwrap();
    assert_eq!(
        (list[0].get("n-min"), list[0].get("n-match"), list[1].get("p-min")),
        (Some(8.0), Some(24.0), Some(0.75))
    );
}

/// Statistics of a short conversation, and the sum of its parts.
fn counted() -> Statistics {
    let ms = |ms: u64| Some(Duration::from_millis(ms));
    let mut governor = Governor::new(GovernorOptions { model: true, ..GovernorOptions::default() });
    let cache = Method::all().find(|m| m.name() == "ngram-cache");
    let rounds = [
        (None, 0, 0, 0),
        (None, 0, 0, 0),
        (Some(Method::DRAFT_MODEL), 4, 4, 4),
        (Some(Method::DRAFT_MODEL), 4, 2, 1),
        (Some(Method::DRAFT_MODEL), 4, 0, 0),
        (cache, 20, 20, 12),
    ];
    let (mut all, mut halves) = (Statistics::default(), [Statistics::default(), Statistics::default()]);
    for (index, (method, asked, drafted, accepted)) in rounds.into_iter().enumerate() {
        let decision = governor.choose(&Offer { room: 64, ..Offer::default() });
        let draft = method.filter(|m| !m.is_history()).and(ms(2 * asked as u64));
        let times = Times { draft, verify: ms(10), accept: ms(1), idle: ms(1), catch_up: None };
        let round = Round {
            method,
            asked,
            drafted,
            accepted,
            times,
            wall: Duration::from_millis(25),
            ..Round::default()
        };
        governor.observe(&round);
        all.add(&round, &decision);
        halves[index % 2].add(&round, &decision);
    }
    let [mut sum, other] = halves;
    sum.merge(&other);
    assert_eq!(
        (sum.record().acceptance_histogram, sum.by_position()),
        (all.record().acceptance_histogram, all.by_position())
    );
    assert_eq!((sum.tokens(), sum.rounds(), sum.drafted()), (all.tokens(), all.rounds(), all.drafted()));
    all
}

#[test]
fn statistics_count_what_happened() {
    let s = counted();
    assert_eq!((s.rounds(), s.drafting_rounds(), s.tokens(), s.drafted(), s.accepted()), (6, 4, 23, 26, 17));
    assert_eq!(s.mean_length(), Some(1.0 + 17.0 / 4.0));
    assert_eq!(s.histogram().into_iter().collect::<Vec<_>>(), [(0, 1), (1, 1), (4, 1), (12, 1)]);
    let positions = s.by_position();
    // An early stop tests no position; the one after the last accepted is tested and fails.
    assert_eq!((positions.len(), positions[0], positions[1], positions[12]), (13, (3, 3), (3, 2), (1, 0)));
    // Two plain rounds of 12 ms, three of 20 ms that committed 8 tokens, one of 12 ms that committed 13.
    let speed = s.speed_up().unwrap();
    assert!((speed - (24.0 + 21.0 * 12.0) / (24.0 + 60.0 + 12.0)).abs() < 1e-9, "{speed}");
    let record = s.record();
    assert_eq!((record.num_spec_steps, record.num_spec_tokens, record.completion_tokens), (4, 20, 23));
    assert_eq!(record.detail.plain_rounds, 2);
    assert_eq!(record.detail.device_seconds.map(|s| (s.verify * 1e3).round()), Some(60.0));
    assert_eq!(Statistics::default().record().mean_acceptance_length, 1.0);
}

#[test]
fn statistics_fit_sixty_columns() {
    let text = counted().to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    for wanted in [
        "speculation  23 tokens in 6 rounds, 2 of them plain",
        "ngram-cache        1       20       12  60.0 %  13.00",
    ] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(Statistics::default().to_string().contains("no times are known"));
}

#[cfg(feature = "cli")]
#[test]
fn the_record_has_the_names_that_aiperf_reads() {
    let json = serde_json::to_value(counted().record()).unwrap();
    assert_eq!(json["engine"], "vkllm");
    assert_eq!(json["acceptance_histogram"]["12"], 1);
    for name in
        ["mean_acceptance_length", "draft_acceptance_rate", "num_accepted_draft_tokens", "num_draft_tokens"]
    {
        assert!(json[name].is_number(), "{name}");
    }
    assert_eq!(json["detail"]["methods"][1]["method"], "ngram-cache");
}
