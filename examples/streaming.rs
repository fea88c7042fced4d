//! Tokens as a `futures` stream, polled by the smallest runtime there is: one task that parks its thread. Any other runtime
//! polls it the same way; a web server would send each token as an event.
//!
//! cargo run --example streaming -- MODEL.gguf

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{Thread, current, park};

use futures_core::Stream;
use vkllm::text::EncodeOptions;
use vkllm::{Device, DeviceOptions, Event, GenerateOptions, Model, ModelOptions, SamplerOptions, Session};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which model file?")?;
    let device = Device::open(&DeviceOptions::default())?;
    let model = Model::open(&device, path.as_ref(), &ModelOptions::default(), &|_, _| true)?;
    let vocabulary = model.vocabulary().ok_or("the model has no vocabulary")?;
    let prompt = vocabulary.encode("Once upon a time", EncodeOptions { add_bos: true, parse_special: false });
    let session = Session::new(&model, SamplerOptions::default())?;
    let mut events =
        pin!(session.stream(&prompt, GenerateOptions { max_tokens: Some(32), ..Default::default() })?);

    let waker = Arc::new(Unpark(current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match events.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(Ok(Event::Token(token)))) => println!("data: {:?}", token.text),
            Poll::Ready(Some(event)) => drop(event?),
            Poll::Ready(None) => return Ok(()),
            Poll::Pending => park(),
        }
    }
}
