//! Options of speculation: from what was typed to a session that drafts.

use std::path::Path;

use vkllm_runtime::Device;

use super::args::{AcceptArg, SpecArgs};
use super::{Failure, input, load};
use crate::speculate::{Method, Setting};
use crate::{DraftHead, Model, ModelFile, ModelOptions, Session, SpecOptions};

/// What was asked for; `None` for plain decoding. Where nothing was, layers of the file that predict further tokens draft;
/// without a file nobody is chosen.
pub(super) fn options(args: &SpecArgs, file: Option<&ModelFile>) -> Result<Option<SpecOptions>, Failure> {
    let none = args.spec.as_deref() == Some("none");
    let list = args.spec.as_deref().filter(|_| !none);
    let mut methods = list.map(Setting::parse_list).transpose()?.unwrap_or_default();
    let predicts = file.is_some_and(|file| file.config.predictors > 0);
    if methods.iter().any(|setting| setting.method == Method::MTP) {
        if file.is_some() && !predicts {
            return Err(input("--spec names mtp, but the model has no layers that predict further tokens"));
        }
        if args.model_draft.is_some() {
            return Err(input("--spec names mtp, but a model drafts (-md FILE); allowed is one of both"));
        }
    } else if predicts && methods.is_empty() && !none && args.model_draft.is_none() {
        methods.push(Setting::new(Method::MTP));
    }
    let named = methods.iter().any(|setting| setting.method == Method::DRAFT_MODEL);
    if named && args.model_draft.is_none() {
        return Err(input("--spec names draft-model, but no model drafts; give one with -md FILE"));
    }
    if !named && args.model_draft.is_some() {
        methods.push(Setting::new(Method::DRAFT_MODEL));
    }
    if methods.is_empty() {
        let lone = [
            ("--draft-max", args.draft_max != "auto"),
            ("--draft-min", args.draft_min > 0),
            ("--draft-p-min", args.draft_p_min.is_some()),
            ("--draft-accept", args.draft_accept != AcceptArg::Same),
            ("--draft-head", args.draft_head.is_some()),
        ];
        return match lone.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(input(format!(
                "{name} says how to draft, but nobody drafts; give -md FILE or --spec TYPE"
            ))),
            None => Ok(None),
        };
    }
    if let Some(p_min) = args.draft_p_min {
        let setting = methods.iter_mut().find(|setting| !setting.method.is_history());
        setting
            .ok_or_else(|| {
                input("--draft-p-min is for a draft model; give one with -md FILE, or --spec mtp")
            })?
            .set("p-min", &p_min.to_string())?;
    }
    let draft_max = length(&args.draft_max)?;
    let draft_head = match args.draft_head.as_deref() {
        None => DraftHead::Whole,
        Some("auto") => DraftHead::Auto,
        Some(text) => text.parse().ok().filter(|&rows| rows > 0).map(DraftHead::Tokens).ok_or_else(|| {
            input(format!("--draft-head is \"{text}\"; allowed is a number of tokens from 1 on, or auto"))
        })?,
    };
    let rejection = args.draft_accept == AcceptArg::Rejection;
    let model = methods.iter().any(|setting| !setting.method.is_history());
    if !model && (rejection || draft_head != DraftHead::Whole) {
        return Err(input(
            "--draft-accept and --draft-head are for a draft model; give one with -md FILE, or --spec mtp",
        ));
    }
    Ok(Some(SpecOptions { methods, draft_max, draft_min: args.draft_min, rejection, draft_head }))
}

/// A length of drafts; `None` leaves it to the governor.
pub(super) fn length(text: &str) -> Result<Option<usize>, Failure> {
    if text == "auto" {
        return Ok(None);
    }
    let number = text.parse();
    number.map(Some).map_err(|_| input(format!("--draft-max is \"{text}\"; allowed is a number, or auto")))
}

/// Reads the draft model's file and checks that it fits beside the target, before either is loaded.
pub(super) fn file(
    path: Option<&Path>,
    device: &Device,
    target: &ModelFile,
    model: &ModelOptions,
) -> Result<Option<(ModelFile, ModelOptions)>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let file = load::file(Some(path))?.without_predictor();
    let options = ModelOptions { context: Some(target.context(model)), ..*model };
    target.plan(device.caps(), model)?.and(&file.plan(device.caps(), &options)?).check(device)?;
    Ok(Some((file, options)))
}

/// Whether the model's own layers are to draft.
pub(super) fn predicts(options: &SpecOptions) -> bool {
    options.methods.iter().any(|setting| setting.method == Method::MTP)
}

/// The target's file with the layers that predict further tokens only where they are to draft: else they take room and time.
pub(super) fn target(file: ModelFile, options: Option<&SpecOptions>) -> ModelFile {
    if options.is_some_and(predicts) { file } else { file.without_predictor() }
}

/// A session that speculates.
pub(super) fn session(
    session: Session,
    draft: Option<&Model>,
    options: Option<&SpecOptions>,
) -> Result<Session, Failure> {
    Ok(match (options, draft) {
        (None, _) => session,
        (Some(options), _) if predicts(options) => session.with_mtp(options)?,
        (Some(options), Some(draft)) => session.with_draft(draft, options)?,
        (Some(options), None) => session.with_history(options)?,
    })
}
