//! Several residual streams (Gemma 3n): streams made of an embedding and merged again (AltUp), a low-rank path beside
//! attention (LAuReL), and inputs that each layer has of its own.

use vkllm_runtime::View;

use super::{Projection, forms_for, forms_of};
use crate::error::Result;
use crate::ops::{self, Activation, Forms, LinearArgs, Norm, Recorder, Rows, Streams};
use crate::tensor::Tensor;

/// Mean squares below this count as this when a stream is given the size of another.
const LEAST: f32 = 1e-5;
const FLOAT: Forms = Forms { float: true, int8: false };

/// Weights that all layers share.
#[derive(Debug)]
pub struct StreamWeights {
    pub count: u32,
    /// The stream that layers compute.
    pub active: u32,
    /// Inputs of all layers: by token, and from the embedding with a norm per layer.
    pub embedding: Tensor,
    pub projection: Projection,
    pub norm: Norm,
    /// From the first stream to each of the others, and back.
    pub out: Vec<Projection>,
    pub back: Vec<Projection>,
}

/// Weights of one layer.
#[derive(Debug)]
pub struct StreamLayer {
    pub router_norm: Norm,
    pub router: Projection,
    /// [streams, streams²] and [streams, streams].
    pub predict: Tensor,
    pub correct: Tensor,
    /// Factors on the active stream before the layer's own input counts.
    pub factor: Tensor,
    /// Down to a few elements, up again, norm.
    pub laurel: (Projection, Projection, Norm),
    /// What gates the layer's own input, and the way back to the width.
    pub gate: Projection,
    pub output: Projection,
    pub output_norm: Norm,
}

impl StreamWeights {
    /// Elements of a layer's own input.
    fn own(&self) -> u32 {
        self.norm.weight.k
    }

    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        let all = self.out.iter().chain(&self.back).chain([&self.projection]);
        all.map(|projection| projection.weight.view.len).sum::<u64>() + self.embedding.row_bytes()
    }

    /// Streams from a token's embedding, and the inputs of all layers, [rows, layers · own], but for a factor of √½.
    pub fn begin(
        &self,
        r: &mut Recorder<'_>,
        table: &Tensor,
        rows: &View,
        scale: f32,
    ) -> Result<(Streams, View)> {
        let (count, k) = (self.count, table.k);
        let all = r.floats("streams", count * r.rows, k);
        let streams = Streams { all, count, rows: r.rows, k, active: self.active };
        let first = streams.one(0);
        ops::embed_into(r, "token_embd", table, rows, scale, &first)?;
        let weights = self.out.iter().chain([&self.projection]).map(|projection| &projection.weight);
        let forms = forms_for(r, weights);
        let h = ops::forms_of_rows(r, "embd_rows", &first, k, forms)?;
        for (index, projection) in (1..).zip(&self.out) {
            let to = streams.one(index);
            let args = LinearArgs { into: Some(&to), ..LinearArgs::default() };
            ops::linear(r, "altup_proj", &h, r.rows, &projection.weight, args)?;
        }
        let others = streams.others();
        let some = (&others, (count - 1) * r.rows, k);
        ops::rescale(r, "altup_proj_size", some, (&first, r.rows), (&others, false), LEAST)?;
        let by_token = r.floats("per_layer_embd", r.rows, self.embedding.k);
        let root = (self.own() as f32).sqrt();
        ops::embed_into(r, "per_layer_embd", &self.embedding, rows, root, &by_token)?;
        let args = LinearArgs { scale: 1.0 / (k as f32).sqrt(), ..LinearArgs::default() };
        let projected = ops::linear(r, "per_layer_proj", &h, r.rows, &self.projection.weight, args)?;
        let groups = r.rows * (self.embedding.k / self.own());
        let inputs = ops::norm_onto(r, "per_layer_norm", (&projected, groups), &self.norm, &by_token)?;
        Ok((streams, inputs))
    }

    /// The sum of the streams as `count` rows of each, the others in the first one's space and of its size.
    pub fn merge(&self, r: &mut Recorder<'_>, streams: &[View], (count, k): (u32, u32)) -> Result<View> {
        let y = r.floats("merged", count, k);
        for (index, (x, projection)) in streams[1..].iter().zip(&self.back).enumerate() {
            let forms = forms_of(r, &projection.weight);
            let h = ops::forms_of(r, "altup_rows", x, (count, k), forms)?;
            let part = ops::linear(r, "altup_unembd", &h, count, &projection.weight, LinearArgs::default())?;
            let first = (&streams[0], count);
            ops::rescale(r, "altup_unembd_size", (&part, count, k), first, (&y, index > 0), LEAST)?;
        }
        ops::add(r, "altup_merge", (&streams[0], count * k), (&y, count * k), 1.0)?;
        Ok(y)
    }
}

impl StreamLayer {
    /// Bytes of the matrices that one row reads.
    pub fn bytes(&self) -> u64 {
        let (down, up, _) = &self.laurel;
        let all = [&self.router, down, up, &self.gate, &self.output];
        all.iter().map(|projection| projection.weight.view.len).sum()
    }

    /// The form in which the low-rank path wants its input.
    pub fn forms(&self, r: &Recorder<'_>) -> Forms {
        forms_of(r, &self.laurel.0.weight).and(FLOAT)
    }

    fn route(&self, r: &mut Recorder<'_>, x: &View, k: u32) -> Result<View> {
        let forms = forms_of(r, &self.router.weight);
        let h = ops::norm(r, "altup_router_norm", (x, k), r.rows, &self.router_norm, forms)?;
        let args = LinearArgs { scale: 1.0 / k as f32, ..LinearArgs::default() };
        ops::linear(r, "altup_router", &h, r.rows, &self.router.weight, args)
    }

    /// Mixes the streams; a copy of the active one, for the layer to compute on.
    pub fn predict(&self, r: &mut Recorder<'_>, streams: &Streams) -> Result<View> {
        let logits = self.route(r, &streams.one(streams.active), streams.k)?;
        ops::altup_predict(r, streams, &logits, &self.predict)
    }

    /// The low-rank path of the rows that attention reads: added to `x`, and the sum is scaled by √½.
    pub fn add_laurel(&self, r: &mut Recorder<'_>, h: &Rows, x: &View) -> Result<()> {
        let (down, up, norm) = &self.laurel;
        let low = down.of(r, "laurel_l", h)?;
        let forms = forms_of(r, &up.weight);
        let low = ops::forms_of_rows(r, "laurel_rows", &low, down.weight.n, forms)?;
        let high = up.of(r, "laurel_r", &low)?;
        let own = h.float.as_ref().unwrap_or(x);
        let sum = ops::norm_onto(r, "laurel_post_norm", (&high, r.rows), norm, own)?;
        let count = r.rows * h.width;
        ops::add(r, "attn_laurel", (&sum, count), (x, count), std::f32::consts::FRAC_1_SQRT_2)
    }

    /// Corrects the streams by what the layer computed, and adds what its own input gives to all but the first.
    pub fn correct(
        &self,
        r: &mut Recorder<'_>,
        streams: &Streams,
        computed: &View,
        (inputs, layer): (&View, u32),
    ) -> Result<()> {
        let logits = self.route(r, computed, streams.k)?;
        let first = ops::altup_correct(r, streams, (&logits, &self.correct), computed, &self.factor)?;
        let forms = forms_of(r, &self.gate.weight);
        let first = ops::forms_of_rows(r, "per_layer_rows", &first, streams.k, forms)?;
        let gate = self.gate.of(r, "inp_gate", &first)?;
        let own = self.gate.weight.n;
        let all = (inputs.len / 4 / u64::from(r.rows)) as u32;
        let skip = u64::from(layer) * u64::from(own) * 4;
        let input = inputs.part(skip, inputs.len - skip);
        let forms = forms_of(r, &self.output.weight);
        let shape = (r.rows, own);
        let gated =
            ops::gate_by(r, "inp_act", (&gate, own), Some((&input, all)), shape, Activation::Gelu, forms)?;
        let args = LinearArgs { scale: std::f32::consts::FRAC_1_SQRT_2, ..LinearArgs::default() };
        let y = ops::linear(r, "proj", &gated, r.rows, &self.output.weight, args)?;
        let y = ops::norm(r, "post_norm", (&y, streams.k), r.rows, &self.output_norm, FLOAT)?;
        let Some(y) = &y.float else { return Ok(()) };
        let count = r.rows * streams.k;
        ops::add(r, "per_layer_add", (y, count), (&streams.others(), (streams.count - 1) * count), 1.0)
    }
}
