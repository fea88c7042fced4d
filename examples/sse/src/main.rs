//! A web server that tells stories: `GET /?prompt=TEXT&tokens=N` answers with server-sent events, a token each. Whoever goes
//! away ends the generation.
//!
//! cargo run --manifest-path examples/sse/Cargo.toml -- MODEL.gguf [PORT]

use std::convert::Infallible;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event as Message, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use futures_util::StreamExt;
use vkllm::text::EncodeOptions;
use vkllm::{Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session};

/// Conversations at once.
const PLACES: u32 = 4;

#[derive(serde::Deserialize)]
struct Asked {
    #[serde(default = "opening")]
    prompt: String,
    #[serde(default = "length")]
    tokens: usize,
}

fn opening() -> String {
    "Once upon a time".into()
}

fn length() -> usize {
    64
}

async fn tell(State(model): State<Model>, Query(asked): Query<Asked>) -> Response {
    let Some(vocabulary) = model.vocabulary() else {
        return (StatusCode::NOT_IMPLEMENTED, "the model has no vocabulary").into_response();
    };
    let prompt = vocabulary.encode(&asked.prompt, EncodeOptions { add_bos: true, parse_special: false });
    let options = GenerateOptions { max_tokens: Some(asked.tokens), ..GenerateOptions::default() };
    // A place that is free, or an answer that says that none is.
    let events =
        Session::new(&model, SamplerOptions::default()).and_then(|session| session.stream(&prompt, options));
    let events = match events {
        Ok(events) => events,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    };
    let messages = events.filter_map(async |event| match event {
        Ok(Event::Token(token)) => Some(Message::default().data(token.text)),
        Ok(Event::Done { finish, .. }) => Some(Message::default().event("done").data(format!("{finish:?}"))),
        Err(error) => Some(Message::default().event("error").data(error.to_string())),
        _ => None,
    });
    Sse::new(messages.map(Ok::<_, Infallible>)).into_response()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which model file?")?;
    let port: u16 = std::env::args().nth(2).map_or(Ok(8080), |port| port.parse())?;
    let device = Device::open(&DeviceOptions::default())?;
    let options = ModelOptions { sessions: PLACES, ..ModelOptions::default() };
    let model = Model::open(&device, path.as_ref(), &options, &|_, _| true)?;
    // Computing has threads of its own, so one is enough to serve.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        println!("http://{}", listener.local_addr()?);
        axum::serve(listener, Router::new().route("/", get(tell)).with_state(model)).await?;
        Ok(())
    })
}
