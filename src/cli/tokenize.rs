//! `vkllm tokenize`: the ids of a text.

use std::io::{self, Write};

use super::args::TokenizeArgs;
use super::{Failure, input, load};
use crate::gguf::Gguf;
use crate::text::{EncodeOptions, Vocabulary};

pub(super) fn run(args: &TokenizeArgs) -> Result<(), Failure> {
    // A file that holds nothing but a vocabulary is enough here.
    let gguf = Gguf::open(&super::fetch::resolve(&args.model)?)?;
    let vocabulary = Vocabulary::from_gguf(&gguf).map_err(crate::Error::from)?;
    let vocabulary =
        vocabulary.ok_or_else(|| input(format!("{}: the file has no vocabulary", args.model.display())))?;
    let text = load::text(args.prompt.as_deref(), args.file.as_deref())?
        .ok_or_else(|| input("there is no text; give one with -p, -f or on standard input"))?;
    let ids = vocabulary.encode(&text, EncodeOptions { add_bos: !args.no_bos, parse_special: args.special });
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &ids)?;
        writeln!(out)?;
    } else {
        for id in ids {
            writeln!(out, "{id}")?;
        }
    }
    Ok(out.flush()?)
}
