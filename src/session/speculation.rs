//! Speculation of a session: who drafts, how much, and the round that verifies it.

use std::collections::VecDeque;
use std::time::Instant;

use super::Session;
use super::generation::Source;
use crate::engine::{
    Drafts, Drawn, Engine, Head, MOST_DRAFTS, MOST_MODEL_DRAFTS, Model, RoundOptions, Rounds,
};
use crate::error::{Error, Result};
use crate::ops::Path;
use crate::speculate::{
    Chain, Governor, GovernorOptions, Method, Offer, Round, Setting, Statistics, Times, Trim, compare_models,
};

/// How a session speculates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecOptions {
    /// Who drafts, in the order in which they are asked; the draft model comes after those that are named.
    pub methods: Vec<Setting>,
    /// Tokens drafted each round; `None` leaves it to the governor.
    pub draft_max: Option<usize>,
    /// Drafts shorter than this are not used.
    pub draft_min: usize,
    /// Drafts are drawn from the draft model's own distribution and judged by rejection sampling. More of them may be
    /// accepted; the text is distributed as without, but is another one.
    pub rejection: bool,
    /// Rows of the draft model's output matrix that it uses: the most frequent tokens. The text stays what it is.
    pub draft_head: DraftHead,
}

/// Which tokens a draft model may propose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DraftHead {
    /// All.
    #[default]
    Whole,
    /// So many, the most frequent ones.
    Tokens(u32),
    /// As many as usually suffice, where the vocabulary is much larger.
    Auto,
}

/// Tokens of [`DraftHead::Auto`]; a quarter of a large vocabulary loses next to no accepted drafts (Zhao et al. 2025,
/// "FR-Spec").
const USUAL_HEAD: u32 = 32768;

/// Positions by which a predictor may lag behind before it computes them although it does not draft.
const FOLLOWS: u32 = 128;

/// What a session that speculates has beside its conversation.
pub(super) struct Speculation {
    pub(super) draft: Option<Model>,
    /// It is the model's own predictor.
    pub(super) predicts: bool,
    /// The engine of the draft model in which the rounds have a place.
    epoch: u64,
    /// Least probability of a token of the draft model.
    p_min: f32,
    rejection: bool,
    /// Tokens the draft model may propose, when not all.
    head: Option<Trim>,
    pub(super) rounds: Rounds,
    pub(super) chain: Chain,
    pub(super) governor: Governor,
    pub(super) statistics: Statistics,
    /// The draft that history gave, kept to reuse its memory.
    pub(super) found: Vec<u32>,
}

fn cannot(reason: String) -> Error {
    Error::Draft { reason }
}

/// Errors: what keeps `draft` from drafting for `target`.
fn check(target: &Model, draft: &Model) -> Result<()> {
    if target.is(draft) {
        return Err(cannot("it is the target itself".into()));
    }
    let (ours, theirs) = (target.bytes_per_token(), draft.bytes_per_token());
    if theirs > ours {
        return Err(cannot(format!(
            "a token of it reads {theirs} bytes of weights, one of the target {ours}"
        )));
    }
    if draft.context() < target.context() {
        return Err(cannot(format!(
            "its context holds {} tokens, the target's {}",
            draft.context(),
            target.context()
        )));
    }
    compare_models((target.vocabulary(), target.config().vocab), (draft.vocabulary(), draft.config().vocab))?;
    Ok(())
}

/// The tokens that a draft may propose; `None` for all.
fn trim(target: &Model, draft: &Model, head: DraftHead) -> Option<Trim> {
    let vocab = draft.config().vocab;
    let rows = match head {
        DraftHead::Tokens(rows) if rows < vocab => rows,
        DraftHead::Auto if vocab / 2 > USUAL_HEAD => USUAL_HEAD,
        _ => return None,
    };
    Some(Trim::most_frequent(draft.vocabulary(), vocab.min(target.config().vocab), &[], rows))
}

fn head(draft: Option<&Model>, trim: Option<&Trim>) -> Result<Option<Head>> {
    draft.zip(trim).map(|(model, trim)| model.head(trim.ids())).transpose()
}

impl SpecOptions {
    fn check(&self, most: usize) -> Result<()> {
        let argument = |what: &str, found: usize, allowed: String| {
            Err(Error::Argument { what: what.into(), found: found.to_string(), allowed })
        };
        match self.draft_max {
            Some(found) if found > most => {
                argument("the number of tokens to draft", found, format!("0 to {most} with these drafters"))
            }
            _ if self.draft_min > self.draft_max.unwrap_or(most) => argument(
                "the least number of tokens to draft",
                self.draft_min,
                format!("0 to {}", self.draft_max.unwrap_or(most)),
            ),
            _ => Ok(()),
        }
    }
}

impl Session {
    /// Lets a smaller model with the same vocabulary draft, and the history drafters among the options before it. The
    /// text stays what it is without.
    ///
    /// Errors: [`Error::Draft`] when the models do not go together, options out of range, no free place in the draft.
    pub fn with_draft(self, draft: &Model, options: &SpecOptions) -> Result<Self> {
        check(&self.model, draft)?;
        if options.methods.iter().any(|setting| setting.method == Method::MTP) {
            return Err(cannot("the model's own layers are to draft too; allowed is one of both".into()));
        }
        let mut methods = options.methods.clone();
        if methods.iter().all(|setting| setting.method != Method::DRAFT_MODEL) {
            methods.push(Setting::new(Method::DRAFT_MODEL));
        }
        let mut engine = draft.engine();
        let slot = engine.take_slot()?;
        let prepared = self.place_sampler(&mut engine, slot);
        drop(engine);
        let made = prepared.and_then(|()| self.speculate(Some((draft, slot)), &methods, options));
        if made.is_err() {
            draft.engine().free_slot(slot);
        }
        made
    }

    /// Lets the model's own layers that predict further tokens draft, and the history drafters among the options before them.
    /// The text stays what it is without.
    ///
    /// Errors: [`Error::Draft`] for a model without such layers, options out of range.
    pub fn with_mtp(self, options: &SpecOptions) -> Result<Self> {
        let model = self.model.clone();
        let predictor = model.predictor().ok_or_else(|| {
            cannot("the model has no layers that predict further tokens, or they were not loaded".into())
        })?;
        if options.methods.iter().any(|setting| setting.method == Method::DRAFT_MODEL) {
            return Err(cannot("the model's own layers draft, so that no other model can".into()));
        }
        let mut methods = options.methods.clone();
        if methods.iter().all(|setting| setting.method != Method::MTP) {
            methods.push(Setting::new(Method::MTP));
        }
        let slot = self.slot;
        let mut engine = predictor.engine();
        engine.take_slot_of(slot)?;
        let prepared = self.place_sampler(&mut engine, slot);
        drop(engine);
        let made = prepared.and_then(|()| self.speculate(Some((predictor, slot)), &methods, options));
        if made.is_err() {
            predictor.engine().free_slot(slot);
        }
        made
    }

    /// Lets drafters look in the conversation's own tokens for what comes next. The text stays what it is without.
    ///
    /// Errors: options out of range, no history drafter among them.
    pub fn with_history(self, options: &SpecOptions) -> Result<Self> {
        let model = options.methods.iter().find(|setting| !setting.method.is_history());
        if model.is_some() || options.methods.is_empty() {
            let known: Vec<_> = Method::all().filter(|m| m.is_history()).map(Method::name).collect();
            return Err(Error::Argument {
                what: "the list of drafting methods without a draft model".into(),
                found: model.map_or_else(|| "empty".into(), |setting| setting.method.to_string()),
                allowed: format!("one or more of {}", known.join(", ")),
            });
        }
        self.speculate(None, &options.methods, options)
    }

    fn speculate(
        mut self,
        draft: Option<(&Model, u32)>,
        methods: &[Setting],
        options: &SpecOptions,
    ) -> Result<Self> {
        let most = methods.iter().map(|setting| setting.method.row().most).max().unwrap_or(0);
        options.check(most.min(MOST_DRAFTS as usize))?;
        let model = methods.iter().find(|setting| !setting.method.is_history());
        let p_min = model.and_then(|setting| setting.get("p-min")).unwrap_or(0.0) as f32;
        let trim = draft.and_then(|(model, _)| trim(&self.model, model, options.draft_head));
        let head = head(draft.map(|(model, _)| model), trim.as_ref())?;
        let rounds = {
            let (target, engine) = self.model.engines(draft.map(|(model, _)| model));
            let side = engine.as_deref().zip(draft).map(|(engine, (_, slot))| (engine, slot));
            let options = RoundOptions { p_min, rejection: options.rejection, head };
            Rounds::new(&target, self.slot, self.draw(), side, options)?
        };
        let cost = draft.map_or(0.0, |(model, _)| {
            model.bytes_per_token() as f64 / self.model.bytes_per_token().max(1) as f64
        });
        let governor = Governor::new(GovernorOptions {
            fixed: options.draft_max,
            least: options.draft_min,
            most,
            model: draft.is_some(),
            drafter: model.map_or(Method::DRAFT_MODEL, |setting| setting.method),
            draft_cost: cost,
        });
        self.speculation = Some(Speculation {
            predicts: draft.is_some() && model.is_some_and(|setting| setting.method == Method::MTP),
            draft: draft.map(|(model, _)| model.clone()),
            epoch: draft.map_or(0, |(model, _)| model.engine().epoch()),
            p_min,
            rejection: options.rejection,
            head: trim,
            rounds,
            chain: Chain::new(methods),
            governor,
            statistics: Statistics::default(),
            found: Vec::new(),
        });
        Ok(self)
    }

    /// Makes rounds for the engines of models that were recovered.
    ///
    /// Errors: the draft model was not recovered.
    pub(super) fn respeculate(&mut self) -> Result<()> {
        let Some(mut speculation) = self.speculation.take() else { return Ok(()) };
        let made = self.rounds_again(&mut speculation);
        self.speculation = Some(speculation);
        made
    }

    fn rounds_again(&mut self, speculation: &mut Speculation) -> Result<()> {
        let head = head(speculation.draft.as_ref(), speculation.head.as_ref())?;
        let options = RoundOptions { p_min: speculation.p_min, rejection: speculation.rejection, head };
        let (target, mut engine) = self.model.engines(speculation.draft.as_ref());
        let (mut epoch, mut taken) = (speculation.epoch, None);
        if let Some(engine) = engine.as_deref_mut()
            && engine.epoch() != epoch
        {
            epoch = engine.epoch();
            // A predictor's place is the conversation's, and what it had computed was computed again with it.
            let slot = if speculation.predicts { self.slot } else { engine.take_slot()? };
            taken = Some(slot);
            self.place_sampler(engine, slot)?;
        }
        let slot = taken.or(speculation.rounds.draft_slot());
        let side = engine.as_deref().zip(slot);
        match Rounds::new(&target, self.slot, self.draw(), side, options) {
            Ok(rounds) => {
                speculation.rounds = rounds;
                if speculation.predicts && taken.is_some() {
                    speculation.rounds.restored(self.computed as u32);
                }
                speculation.epoch = epoch;
                Ok(())
            }
            Err(error) => {
                if let (Some(engine), Some(slot)) = (engine.as_deref_mut(), taken) {
                    engine.free_slot(slot);
                }
                Err(error)
            }
        }
    }

    /// Recovers the model, and the draft model with it, after their device was lost; see [`Model::recover`].
    ///
    /// Errors: as [`Model::recover`]; the session is lost until this succeeds.
    pub fn recover(&mut self) -> Result<()> {
        self.model.recover()?;
        let draft = self.speculation.as_ref().and_then(|speculation| speculation.draft.as_ref());
        if let Some(draft) = draft.filter(|draft| draft.lost().is_some()) {
            draft.recover_on(&self.model.device())?;
        }
        self.resettle()
    }

    /// One round, or one plain step where drafting does not pay. Its tokens, at most `left`, go to `pending`.
    pub(super) fn round(
        &mut self,
        left: usize,
        pending: &mut VecDeque<(Result<Drawn>, Source)>,
    ) -> Result<Round> {
        let began = Instant::now();
        self.resettle()?;
        let Some(mut speculation) = self.speculation.take() else { return Ok(Round::default()) };
        let round = self.round_with(&mut speculation, left, pending, began);
        self.speculation = Some(speculation);
        round
    }

    fn round_with(
        &mut self,
        speculation: &mut Speculation,
        left: usize,
        pending: &mut VecDeque<(Result<Drawn>, Source)>,
        began: Instant,
    ) -> Result<Round> {
        let base = self.tokens.len() - 1;
        // Beside so many plain steps the predictor's one is nothing, and later their hidden rows are gone.
        if speculation.rounds.lag(base as u32) >= FOLLOWS {
            speculation.follow(&self.model, &self.tokens[..base], Path::Prefill)?;
        }
        let Speculation { draft, rounds, chain, governor, statistics, found, .. } = speculation;
        let room = (self.model.context() as usize - 1 - base).min(left - 1).min(MOST_DRAFTS as usize);
        let history = chain.draft(&self.tokens, room, found).map(|method| (method, found.len()));
        let lag = rounds.lag(base as u32) as usize;
        let decision = governor.choose(&Offer { history, lag, room });
        let k = decision.k.min(room);
        let (drafts, method) = match decision.method {
            Some(method) if k > 0 && !method.is_history() => {
                (Drafts::Model((k as u32).min(MOST_MODEL_DRAFTS)), method)
            }
            Some(method) if k > 0 => {
                found.truncate(k);
                (Drafts::Given(found), method)
            }
            _ => {
                let round = self.plain(rounds, began)?;
                governor.observe(&round.0);
                statistics.add(&round.0, &decision);
                pending.push_back((Ok(round.1), Source::Target));
                return Ok(round.0);
            }
        };
        let made = rounds.made();
        let model = self.model.clone();
        let (mut target, mut engine) = model.engines(draft.as_ref());
        let stop = self.cancel.flag();
        let outcome =
            target.until(stop, |target| rounds.run(target, engine.as_deref_mut(), &self.tokens, drafts))?;
        drop((target, engine));
        self.model.came_further();
        if let Drafts::Given(tokens) = drafts {
            chain.result(tokens, outcome.accepted as usize);
        }
        let times = outcome.times;
        let round = Round {
            method: Some(method),
            asked: k,
            drafted: outcome.drafted as usize,
            accepted: outcome.accepted as usize,
            catch_up: if method.is_history() { 0 } else { lag.saturating_sub(1) },
            times: Times {
                catch_up: times.catch_up,
                draft: times.draft,
                verify: times.verify,
                accept: times.accept,
                idle: times.idle,
            },
            wall: began.elapsed(),
            recorded: rounds.made() != made,
        };
        governor.observe(&round);
        statistics.add(&round, &decision);
        for (place, drawn) in outcome.drawn.into_iter().enumerate() {
            let accepted = place < outcome.accepted as usize;
            let source = if accepted { Source::Draft { method, place } } else { Source::Target };
            pending.push_back((drawn, source));
        }
        // Rounds that record say nothing about the others.
        if !round.recorded {
            self.stats.host_time += times.host;
            self.stats.replay_time += times.wall;
            self.stats.host_steps += 1;
        }
        self.stats.rerecorded += rounds.made() - made;
        self.stats.decode_time += began.elapsed();
        Ok(round)
    }

    /// A plain decode step as a round that drafts nothing.
    fn plain(&mut self, rounds: &mut Rounds, began: Instant) -> Result<(Round, Drawn)> {
        let device = |session: &Session| session.model.engine().times.device;
        let (before, recorded) = (device(self), self.stats.rerecorded);
        let drawn = self.decode()?;
        rounds.moved(self.tokens.len() as u32);
        let verify = device(self).map(|after| after - before.unwrap_or_default());
        let round = Round {
            times: Times { verify, ..Times::default() },
            wall: began.elapsed(),
            recorded: self.stats.rerecorded != recorded,
            ..Round::default()
        };
        Ok((round, drawn))
    }
}

impl Speculation {
    /// A predictor computes what it lacks of `tokens`, which the model computed; a draft model does so when it drafts.
    pub(super) fn follow(&mut self, model: &Model, tokens: &[u32], path: Path) -> Result<()> {
        if !self.predicts {
            return Ok(());
        }
        let (target, predictor) = model.engines(self.draft.as_ref());
        predictor.map_or(Ok(()), |mut predictor| self.rounds.follow(&target, &mut predictor, tokens, path))
    }

    /// A generation begins: `tokens` stand, `prompt` comes next.
    pub(super) fn begin(&mut self, tokens: &[u32], prompt: &[u32]) {
        self.rounds.moved(tokens.len() as u32);
        self.chain.begin(&[tokens, prompt].concat());
        self.governor.begin();
    }

    /// The draft model and its place for the conversation.
    pub(super) fn draft(&self) -> Option<(&Model, u32)> {
        self.draft.as_ref().zip(self.rounds.draft_slot())
    }

    /// Whether the draft model's engine is the one in which the conversation has its place.
    pub(super) fn is_settled(&self, engine: &Engine) -> bool {
        engine.epoch() == self.epoch
    }

    /// Positions that the draft model computed.
    pub(super) fn draft_computed(&self) -> usize {
        self.rounds.computed() as usize
    }

    /// What the draft model computed for the first tokens was put back.
    pub(super) fn draft_restored(&mut self, computed: usize) {
        self.rounds.restored(computed as u32);
    }

    /// All tokens but the first so many were forgotten.
    pub(super) fn rewound(&mut self, tokens: usize) {
        self.rounds.moved(tokens as u32);
    }

    pub(super) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Gives the draft model's place back.
    pub(super) fn free(&self) {
        if let Some((model, slot)) = self.draft() {
            let mut engine = model.engine();
            if engine.epoch() == self.epoch {
                engine.free_slot(slot);
            }
        }
    }
}
