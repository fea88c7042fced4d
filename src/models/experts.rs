//! What the metadata say about mixtures of experts.

use super::Architecture;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::ops::{Gating, Router};

/// Most experts of a layer, and most that one row uses.
const MOST_EXPERTS: u32 = 512;
const MOST_USED: u32 = 32;

/// The mixtures of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertConfig {
    pub router: Router,
    /// Width between the matrices of an expert, and of the one that all rows use; 0 where there is none.
    pub ffn: u32,
    pub shared_ffn: u32,
    /// Layers before the first with experts.
    pub leading_dense: u32,
    /// Behind those, every so many layers have experts.
    pub every: u32,
}

/// Reads them; `None` for a model without experts.
///
/// Errors: numbers of experts or groups that do not fit each other.
pub(super) fn read(gguf: &Gguf, architecture: &Architecture, ffn: u32) -> Result<Option<ExpertConfig>> {
    let Some((gating, normalise)) = architecture.experts else { return Ok(None) };
    let meta = gguf.metadata();
    let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let refuse = |suffix: &str, found: &dyn std::fmt::Display, allowed: String| {
        Error::from(meta.refuse(&key(suffix), found, allowed))
    };
    let within = |suffix: &str, value: u32, low: u32, high: u32| {
        let fits = (low..=high).contains(&value);
        if fits { Ok(value) } else { Err(refuse(suffix, &value, format!("{low} to {high}"))) }
    };
    let experts = match meta.u32(&key("expert_count"))? {
        None | Some(0) => return Ok(None),
        Some(count) => within("expert_count", count, 1, MOST_EXPERTS)?,
    };
    let used = meta.require_u32(&key("expert_used_count"))?;
    let used = within("expert_used_count", used, 1, experts.min(MOST_USED))?;
    let gating = match meta.u32(&key("expert_gating_func"))? {
        None | Some(0) => gating,
        Some(1) => Gating::Softmax,
        Some(2) => Gating::Sigmoid,
        Some(3) => Gating::SoftmaxOfChosen,
        Some(other) => return Err(refuse("expert_gating_func", &other, "0 to 3".into())),
    };
    let groups = match meta.u32(&key("expert_group_count"))? {
        None | Some(0 | 1) => (1, 1),
        Some(groups) => {
            let groups = within("expert_group_count", groups, 2, experts.min(32))?;
            let used_groups = meta.require_u32(&key("expert_group_used_count"))?;
            (groups, within("expert_group_used_count", used_groups, 1, groups)?)
        }
    };
    if experts % groups.0 != 0 || experts / groups.0 * groups.1 < used {
        let allowed = format!("a divisor of {experts} experts whose chosen groups hold {used}");
        return Err(refuse("expert_group_count", &groups.0, allowed));
    }
    let ffn = match meta.u32(&key("expert_feed_forward_length"))? {
        Some(ffn) => within("expert_feed_forward_length", ffn, 1, 1 << 20)?,
        None => ffn,
    };
    // The matrices themselves say how wide the shared expert is; metadata count it in different ways.
    let shared = gguf.tensors().iter().find(|info| info.name.ends_with(".ffn_up_shexp.weight"));
    let shared_ffn = shared.and_then(|info| info.dims.get(1).copied()).unwrap_or(0);
    let leading_dense = meta.u32(&key("leading_dense_block_count"))?.unwrap_or(0);
    let every = meta.u32(&key("interleave_moe_layer_step"))?.filter(|every| *every > 0).unwrap_or(1);
    let scale = meta.f32(&key("expert_weights_scale"))?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
    let normalise = meta.bool(&key("expert_weights_norm"))?.unwrap_or(normalise);
    let router = Router { experts, used, gating, groups, normalise, scale };
    let shared_ffn = u32::try_from(shared_ffn)
        .ok()
        .filter(|ffn| *ffn <= 1 << 20)
        .ok_or_else(|| refuse("expert_shared_feed_forward_length", &shared_ffn, "up to 1048576".into()))?;
    Ok(Some(ExpertConfig { router, ffn, shared_ffn, leading_dense, every }))
}
