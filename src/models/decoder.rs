//! The decoder: the recording of one step through its layers.

use vkllm_runtime::View;

use super::{Config, Entry, HeadNorm, Layer, Parts};
use crate::blocks::{self, AttentionInputs, Onto, RecurrentInputs, Source};
use crate::cache::{HiddenView, KvPool, StatePool};
use crate::error::Result;
use crate::ops::{
    self, AttentionShape, AttentionTile, Forms, LinearArgs, Norm, Path, Recorder, Rows, Stored,
};
use crate::tensor::Tensor;

/// What a step reads besides weights.
pub struct StepViews<'a> {
    pub rows: &'a View,
    pub block_table: &'a View,
    /// The blocks of layers with a window, which hold the last positions alone.
    pub ring_table: &'a View,
    /// (cos, sin) per position.
    pub rope: &'a View,
    pub query_scale: Option<&'a View>,
    /// Indices of the rows whose logits are wanted.
    pub outputs: &'a View,
    /// Where hidden rows are kept: a model's for its predictor, and the predictor's own for its next token.
    pub hidden: Option<&'a HiddenView>,
    /// In place of the model's own; tokens without a row cannot be chosen.
    pub head: Option<TrimmedHead<'a>>,
}

/// An output matrix with the rows of few tokens.
#[derive(Clone, Debug)]
pub struct TrimmedHead<'a> {
    pub matrix: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    /// By token: its row, or one beyond the matrix.
    pub places: View,
}

/// Which rows get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outputs {
    /// None: the step only fills the cache.
    None,
    /// All rows, in order.
    All,
    /// The last row.
    Last,
    /// That many rows, chosen by the step's list.
    Chosen(u32),
}

/// Records a step; returns the logits [outputs, vocab], when any are wanted.
pub fn record(
    r: &mut Recorder<'_>,
    config: &Config,
    parts: &Parts,
    (kv, states): (&KvPool, &StatePool),
    context: u32,
    step: &StepViews<'_>,
    outputs: Outputs,
) -> Result<Option<View>> {
    let attends = parts.layers.iter().any(|layer| layer.attention.is_some());
    let all = attends.then(|| Sight::new(r, config, kv, context, step, None)).transpose()?;
    let window = config.window.as_ref();
    let near =
        window.map(|window| Sight::new(r, config, kv, context, step, Some(window.keys))).transpose()?;
    let routing = match parts.layers.first().and_then(|layer| layer.attention.as_ref()).map(|a| &a.source) {
        Some(Source::Latent(latent)) => Some(ops::route_heads(r, config.heads, &latent.k_b)?),
        _ => None,
    };
    let several = match &parts.streams {
        Some(w) => Some((w, w.begin(r, &parts.embedding, step.rows, config.embedding_scale)?)),
        None => None,
    };
    let mut x = match &several {
        Some((w, (streams, _))) => streams.one(w.active),
        None => ops::embed(r, &parts.embedding, step.rows, config.embedding_scale)?,
    };
    if let (Some(entry), Some(hidden)) = (&parts.entry, step.hidden) {
        x = enter(r, entry, &x, step.rows, hidden)?;
    }
    let cached = config.attention_layers();
    let mut recurrences = 0;
    for (index, layer) in parts.layers.iter().enumerate() {
        let number = index as u32;
        r.scope(format!("blk.{number}"));
        let sight = near.as_ref().filter(|_| config.has_window(number)).or(all.as_ref());
        let source = config.cached_in(number);
        let place = cached.iter().position(|layer| *layer == source).filter(|_| layer.attention.is_some());
        let cache = place.map(|place| kv.layer(place as u32));
        let stored = match (source == number, kv.layout().v_in_k) {
            (false, _) => Stored::Nothing,
            (true, true) => Stored::Keys,
            (true, false) => Stored::KeysAndValues,
        };
        let inputs = sight.zip(cache.as_ref()).map(|(sight, (keys, values))| AttentionInputs {
            shape: &sight.shape,
            eps: config.norm_eps,
            rope: config.has_rope(number).then(|| (&sight.rope, config.architecture.pairing.code())),
            norm_after_rope: config.head_norm == HeadNorm::After,
            query_scale: step.query_scale,
            scale: config.attention_scale,
            rows: step.rows,
            block_table: &sight.block_table,
            tiles: &sight.tiles,
            cache: (keys, values),
            stored,
            heads: routing.as_ref(),
        });
        let state = layer.recurrent.as_ref().map(|_| states.layer(recurrences));
        let (layout, eps) = (states.layout(), config.norm_eps);
        let recurrent = state.as_ref().map(|state| RecurrentInputs { layout, eps, rows: step.rows, state });
        // Of a predictor that catches up only the cache is wanted.
        let keys_only = parts.entry.is_some() && outputs == Outputs::None;
        match (&several, &layer.streams) {
            (Some((_, (streams, own))), Some(w)) => {
                let x = w.predict(r, streams)?;
                record_layer(r, config, layer, &x, (inputs.as_ref(), recurrent.as_ref()), false)?;
                w.correct(r, streams, &x, (own, number))?;
            }
            _ => record_layer(r, config, layer, &x, (inputs.as_ref(), recurrent.as_ref()), keys_only)?,
        }
        recurrences += u32::from(layer.recurrent.is_some());
    }
    r.scope("");
    let whole = (&parts.output, parts.output_bias.as_ref());
    let (matrix, bias) = step.head.as_ref().map_or(whole, |head| (head.matrix, head.bias));
    // Few rows of many are the last of a prompt: their logits come from the same kernels as a decoded row's.
    let path = if outputs == Outputs::All { r.path } else { Path::Rows };
    let forms = r.on_path(path, |r| blocks::forms_of(r, matrix));
    let mut normed = None;
    if let (Some(hidden), None) = (step.hidden, &parts.entry) {
        let wanted = if outputs == Outputs::All { FLOAT.and(forms) } else { FLOAT };
        let h = ops::norm(r, "output_norm", (&x, config.width), r.rows, &parts.output_norm, wanted)?;
        if let Some(float) = &h.float {
            ops::hidden_put(r, step.rows, float, (r.rows, config.width), hidden)?;
        }
        normed = Some(h).filter(|_| outputs == Outputs::All);
    }
    let chosen = |r: &mut Recorder<'_>, x: View| match outputs {
        Outputs::None | Outputs::All => Ok((x, r.rows)),
        Outputs::Last => {
            let bytes = u64::from(config.width) * 4;
            Ok((x.part(u64::from(r.rows - 1) * bytes, bytes), 1))
        }
        Outputs::Chosen(count) => Ok((ops::gather(r, &x, config.width, step.outputs, count)?, count)),
    };
    if outputs == Outputs::None {
        return Ok(None);
    }
    let (x, count) = match &several {
        None => chosen(r, x)?,
        Some((w, (streams, _))) => {
            let rows = (0..w.count).map(|index| chosen(r, streams.one(index))).collect::<Result<Vec<_>>>()?;
            let count = rows.first().map_or(0, |(_, count)| *count);
            let views: Vec<View> = rows.into_iter().map(|(view, _)| view).collect();
            (w.merge(r, &views, (count, config.width))?, count)
        }
    };
    // A predictor goes on from its last row when it predicts another token.
    let feeds = step.hidden.filter(|_| parts.entry.is_some() && outputs == Outputs::Last);
    let wanted = if feeds.is_some() { FLOAT.and(forms) } else { forms };
    let h = match normed {
        Some(h) => h,
        None => ops::norm(r, "output_norm", (&x, config.width), count, &parts.output_norm, wanted)?,
    };
    if let (Some(hidden), Some(float)) = (feeds, &h.float) {
        let row = step.rows.len / u64::from(r.rows);
        let last = step.rows.part(step.rows.len - row, row);
        ops::hidden_put(r, &last, float, (1, config.width), hidden)?;
    }
    let args = LinearArgs { bias, scale: config.logit_scale, ..LinearArgs::default() };
    let logits = r.on_path(path, |r| ops::linear(r, "output", &h, count, matrix, args))?;
    if config.final_cap != 0.0 {
        ops::soft_cap(r, "output_cap", &logits, count * matrix.n, config.final_cap)?;
    }
    let Some(head) = &step.head else { return Ok(Some(logits)) };
    Ok(Some(ops::spread(r, &logits, &head.places, (count, matrix.n, config.vocab))?))
}

const FLOAT: Forms = Forms { float: true, int8: false };

/// The rows that a predictor's layer reads, from the embeddings `x` of its tokens.
fn enter(r: &mut Recorder<'_>, entry: &Entry, x: &View, rows: &View, hidden: &HiddenView) -> Result<View> {
    let width = entry.token_norm.weight.k;
    r.scope("nextn");
    let h = ops::hidden_get(r, rows, width, hidden)?;
    let token = ops::norm(r, "enorm", (x, width), r.rows, &entry.token_norm, FLOAT)?;
    let before = ops::norm(r, "hnorm", (&h, width), r.rows, &entry.hidden_norm, FLOAT)?;
    let (token, before) = (token.float.unwrap_or_else(|| x.clone()), before.float.unwrap_or(h));
    let both = ops::join(r, "join", (&token, width, width), (&before, width, width), r.rows)?;
    let forms = blocks::forms_of(r, &entry.projection);
    let both = ops::forms_of_rows(r, "join", &both, 2 * width, forms)?;
    ops::linear(r, "eh_proj", &both, r.rows, &entry.projection, LinearArgs::default())
}

/// What layers of one kind see: all keys, or those of a window.
struct Sight {
    shape: AttentionShape,
    tiles: Vec<AttentionTile>,
    rope: View,
    block_table: View,
}

impl Sight {
    fn new(
        r: &mut Recorder<'_>,
        config: &Config,
        kv: &KvPool,
        context: u32,
        step: &StepViews<'_>,
        window: Option<u32>,
    ) -> Result<Self> {
        let shape = AttentionShape {
            heads: config.heads,
            layout: *kv.layout(),
            rot: config.rot,
            context,
            window: window.unwrap_or(0),
            cap: config.attention_cap,
        };
        let tiles = ops::attention_tiles(r, &shape, step.rows)?;
        // The second of two tables of angles is for windows.
        let own = window.is_some() && config.window_base.is_some();
        let tables = 1 + u64::from(config.window_base.is_some());
        let bytes = step.rope.len / tables;
        let rope = step.rope.part(u64::from(own) * bytes, bytes);
        let block_table = if window.is_some() { step.ring_table } else { step.block_table };
        Ok(Sight { shape, tiles, rope, block_table: block_table.clone() })
    }
}

/// What a block reads: the norm of the residual stream, or the stream itself.
fn read(
    r: &mut Recorder<'_>,
    label: &str,
    x: &View,
    width: u32,
    norm: Option<&Norm>,
    forms: Forms,
) -> Result<Rows> {
    match norm {
        Some(norm) => ops::norm(r, label, (x, width), r.rows, norm, forms),
        None => ops::forms_of_rows(r, label, x, width, forms),
    }
}

fn record_layer(
    r: &mut Recorder<'_>,
    config: &Config,
    layer: &Layer,
    x: &View,
    (attends, recurs): (Option<&AttentionInputs<'_>>, Option<&RecurrentInputs<'_>>),
    keys_only: bool,
) -> Result<()> {
    let (width, parallel) = (config.width, config.architecture.parallel);
    let onto = |post_norm, post_label| Onto { x, post_norm, post_label, scale: config.residual_scale };
    let attention = layer.attention.as_ref().zip(attends);
    let recurrent = layer.recurrent.as_ref().zip(recurs);
    let ffn_forms = layer.ffn.as_ref().map_or(Forms::default(), |ffn| ffn.forms(r));
    let mut shared = None;
    if attention.is_some() || recurrent.is_some() {
        let mut forms = if parallel { ffn_forms } else { Forms::default() };
        forms = forms.and(attention.map_or(Forms::default(), |(w, _)| w.forms(r)));
        forms = forms.and(recurrent.map_or(Forms::default(), |(w, _)| w.forms(r)));
        forms = forms.and(layer.streams.as_ref().map_or(Forms::default(), |w| w.forms(r)));
        let h = read(r, "attn_norm", x, width, layer.attn_norm.as_ref(), forms)?;
        if let Some((w, inputs)) = attention {
            if keys_only {
                return blocks::attention_keys(r, &h, w, inputs);
            }
            let after_attention = onto(layer.attn_post_norm.as_ref(), "attn_post_norm");
            blocks::attention(r, &h, w, inputs, &after_attention)?;
        }
        if let Some((w, inputs)) = recurrent {
            blocks::recurrent(r, &h, w, inputs, &onto(None, ""))?;
        }
        if let Some(w) = &layer.streams {
            w.add_laurel(r, &h, x)?;
        }
        shared = Some(h).filter(|_| parallel);
    }
    let Some(ffn) = &layer.ffn else { return Ok(()) };
    let h = match shared {
        Some(h) => h,
        None => read(r, "ffn_norm", x, width, layer.ffn_norm.as_ref(), ffn_forms)?,
    };
    let after_ffn = onto(layer.ffn_post_norm.as_ref(), "ffn_post_norm");
    blocks::feed_forward(r, &h, ffn, &after_ffn)
}
